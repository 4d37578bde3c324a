// From the hash to the view, and back.
const SEARCH = typeof searchView === "function"; // a page of one diagnosis has nothing to find

function render() {
  const state = readState();
  const view = VIEWS[state.view] ? state.view : Object.keys(VIEWS)[0];
  const main = document.getElementById("main");
  document.getElementById("tabs").replaceChildren(...Object.entries(VIEWS).map(([key, [name]]) =>
    el("a", { href: hashOf({ view: key, q: null }), "aria-current": key === view && !state.q ? "page" : null }, name)));
  main.replaceChildren();
  if (state.q && SEARCH) searchView(state, main);
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
document.getElementById("search").hidden = !SEARCH;
document.getElementById("search").value = readState().q || "";
document.getElementById("search").addEventListener("input", (event) => {
  const next = hashOf({ q: event.target.value });
  history.replaceState(null, "", next);
  render();
});
addEventListener("hashchange", () => { render(); scrollTo(0, 0); });
render();
