// What is shown is a function of the URL's hash alone, so that every view can be shared.
const DATA = JSON.parse(document.getElementById("data").textContent);
const UNITS = DATA.units.unit.map((unit, i) => Object.fromEntries(Object.entries(DATA.units).map(([k, v]) => [k, v[i]])));
const BY_NAME = new Map(UNITS.map((u) => [u.unit, u]));
const SITES = [...new Set(UNITS.map((u) => u.site))];

function go(changes) {
  location.hash = hashOf(changes);
}

function unitLink(name, shown, current) {
  return el("a", { href: hashOf({ view: "unit", unit: name, q: null }), "aria-current": current ? "true" : null }, shown || name);
}

function searchText(unit) {
  const card = DATA.cards[unit.unit];
  const words = card ? card.explanations.map((e) => e.text).concat(card.exemplars.slice(0, 4).map((e) => e.tokens.join(""))) : [];
  return [unit.unit, ...words].join("\n").toLowerCase();
}

let searchIndex = null;
function find(query) {
  searchIndex = searchIndex || UNITS.map((u) => [u, searchText(u)]);
  const wanted = query.toLowerCase();
  return searchIndex.filter(([, text]) => text.includes(wanted)).map(([unit]) => unit);
}
