// Lists of units: walked by keys, found by words.
function walk(event) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const links = [...event.currentTarget.querySelectorAll("a")];
  const next = links[links.indexOf(document.activeElement) + by];
  if (next) next.focus();
}

function searchView(state, main) {
  const found = find(state.q);
  main.append(el("h2", {}, `${found.length} units match “${state.q}”`), el("ul", { class: "units", id: "found" }, found.slice(0, 300).map((u) => el("li", {}, unitLink(u.unit, `${u.unit}${u.has_card ? " ●" : ""}`)))));
}
