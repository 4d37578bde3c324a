// From the hash to the view, and back.
const VIEWS = { overview: ["Overview", overview], map: ["Map", mapView], unit: ["Unit", unitView], dictionary: ["Dictionary", dictionary], checks: ["Checks", checksView], run: ["Run", factsView] };

function render() {
  const state = readState();
  const view = VIEWS[state.view] ? state.view : "overview";
  const main = document.getElementById("main");
  document.getElementById("tabs").replaceChildren(...Object.entries(VIEWS).map(([key, [name]]) =>
    el("a", { href: hashOf({ view: key, q: null }), "aria-current": key === view && !state.q ? "page" : null }, name)));
  main.replaceChildren();
  if (state.q) searchView(state, main);
  else VIEWS[view][1](state, main);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.getElementById("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  render();
});
document.getElementById("search").value = readState().q || "";
document.getElementById("search").addEventListener("input", (event) => {
  const next = hashOf({ q: event.target.value });
  history.replaceState(null, "", next);
  render();
});
addEventListener("hashchange", () => { render(); scrollTo(0, 0); });
render();
