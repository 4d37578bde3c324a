// All units as a table: sorted by any column, narrowed by words, numbers and site. What is shown follows from the URL alone.
const COLUMNS = [["unit", "unit", null], ["explainer", "best explanation", null], ["rho", "ρ", "rho_top_and_random"], ["rho_random", "ρ random", "rho_random_only"], ["rho_population", "ρ all tokens", "rho_population"], ["bits", "bits", "bits"],
  ["eta2", "η²", "eta2"], ["effective", "N_eff", "effective"], ["density", "density", "density"], ["kurtosis", "kurtosis", "kurtosis"]];
const PAGE = 100;

function indexView(state, main) {
  const columns = COLUMNS.filter(([key]) => UNITS.some((u) => u[key] !== undefined && u[key] !== null && u[key] !== ""));
  const by = columns.some(([key]) => key === state.sort) ? state.sort : "rho", down = state.order !== "up", site = state.site || "";
  const some = UNITS.filter((u) => !site || u.site === site).sort((a, b) => compare(a[by], b[by], by === "unit" ? !down : down) || a.unit.localeCompare(b.unit, "en", { numeric: true }));
  const first = Math.min(Math.max(0, Number(state.from) || 0), Math.max(0, some.length - 1)), shown = some.slice(first, first + PAGE);
  const heads = columns.map(([key, name, explained]) => el("th", { "aria-sort": key === by ? (down ? "descending" : "ascending") : null },
    el("button", { type: "button", class: "sort", onclick: () => go({ sort: key, order: key === by && down ? "up" : null, from: null }) }, name, key === by ? (down ? " ↓" : " ↑") : ""), void explained));
  const cell = (u, key) => (key === "unit" ? unitLink(u.unit, `${u.site}#${u.index}${u.sign < 0 ? " −" : ""}`) : key === "explainer" ? el("div", { class: "said clamp", title: u.text }, el("small", {}, u.explainer), " ", visible(u.text || "")) : el("span", { class: "numeral" }, number(u[key])));
  main.append(el("h2", {}, "Units"),
    el("div", { class: "controls" }, SITES.length > 1 ? el("label", {}, "site ", el("select", { "aria-label": "site", onchange: (e) => go({ site: e.target.value, from: null }) }, ["", ...SITES].map((s) => el("option", { value: s, selected: s === site }, s || "all")))) : null,
      el("span", { class: "soft" }, `${some.length.toLocaleString("en-US")} units; click a heading to sort, type above to search names, tokens and explanations`), pager(first, some.length)),
    el("div", { class: "scroll" }, el("table", { class: "index" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, shown.map((u) => el("tr", {}, columns.map(([key]) => el("td", {}, cell(u, key)))))))));
}

// Missing numbers come last, whichever way the rest is sorted.
function compare(a, b, down) {
  const none = (v) => v === null || v === undefined || v === "";
  if (none(a) || none(b)) return Number(none(a)) - Number(none(b));
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

function pager(first, count) {
  if (count <= PAGE) return null;
  const turn = (to, shown) => el("button", { type: "button", disabled: to < 0 || to >= count, onclick: () => go({ from: to || null }) }, shown);
  return el("span", { class: "together" }, turn(first - PAGE, "←"), ` ${first + 1} to ${Math.min(count, first + PAGE)} `, turn(first + PAGE, "→"));
}
