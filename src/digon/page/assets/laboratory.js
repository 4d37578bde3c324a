// The toy laboratory: figures with their controls, and the table of claims. The hash keeps what is shown.
const DATA = JSON.parse(document.getElementById("data").textContent);
const STUDIES = [...new Set(DATA.figures.map((f) => f.study))];
const SHORT = { holds: "for", differs: "against", "not reached": "silent" };

// A control may have several parts, "density | n, m"; then every part of a frame's label is chosen by itself.
function parts(text) {
  return text.split("|").map((part) => part.trim());
}

function controls(figure, chosen, change) {
  const names = parts(figure.control || "frame"), labels = figure.frames.map((f) => parts(f.label));
  if (figure.frames.length < 2) return null;
  return el("div", { class: "controls" }, names.map((name, k) => {
    const values = [...new Set(labels.map((l) => l[k]))], now = labels[chosen][k];
    const pick = (value) => {
      const wanted = labels[chosen].map((v, j) => (j === k ? value : v));
      const score = (label) => label.reduce((sum, v, j) => sum + (v === wanted[j] ? (j === k ? 100 : 1) : 0), 0);
      change(labels.reduce((best, label, i) => (score(label) > score(labels[best]) ? i : best), 0));
    };
    if (values.length > 4 && k === 0) {
      return el("label", { class: "slider" }, `${name} `, el("input", { type: "range", min: 0, max: values.length - 1, step: 1, value: values.indexOf(now), "aria-valuetext": now, oninput: (e) => pick(values[Number(e.target.value)]) }), el("output", {}, now));
    }
    return el("label", {}, `${name} `, el("select", { onchange: (e) => pick(e.target.value) }, values.map((v) => el("option", { value: v, selected: v === now }, v))));
  }), player(figure, chosen, change));
}

let timer = null;
function player(figure, chosen, change) {
  if (figure.frames.length < 6) return null;
  return el("button", { type: "button", "aria-label": timer ? "stop" : "play", onclick: () => {
    if (timer) { clearInterval(timer); timer = null; return change(chosen); }
    let at = chosen;
    timer = setInterval(() => { at = (at + 1) % figure.frames.length; change(at); }, 350);
    change(chosen);
  } }, timer ? "■ stop" : "▶ play");
}

// A slider starts in its middle, where something is to be seen; choices start with the first.
function startOf(figure) {
  const labels = figure.frames.map((f) => parts(f.label)), values = [...new Set(labels.map((l) => l[0]))];
  if (values.length <= 4) return 0;
  const wanted = [values[Math.floor(values.length / 2)], ...labels[0].slice(1)];
  return Math.max(0, labels.findIndex((l) => l.every((v, i) => v === wanted[i])));
}

function figureView(entry) {
  const figure = entry.figure, picture = el("div", { class: "figure", role: "img", "aria-label": figure.title }), slot = el("div", {});
  const show = (i) => {
    const panel = controls(figure, i, show);
    slot.replaceChildren(...(panel ? [panel] : []));
    drawFigure(picture, figure, figure.frames[i], innerWidth > 760);
  };
  const card = el("section", { class: "panel", id: figure.id }, el("h3", {}, el("a", { href: hashOf({ view: "figures", study: entry.study, figure: figure.id }) }, figure.title)),
    figure.source ? el("p", { class: "soft" }, figure.source) : null, slot, picture,
    el("p", {}, el("strong", {}, "What you should see. "), figure.see), el("p", {}, el("strong", {}, "What this does not show. "), figure.caution));
  return { card, draw: () => show(startOf(figure)) };
}

function figuresView(state, main) {
  const study = STUDIES.includes(state.study) ? state.study : STUDIES[0];
  main.append(el("h2", {}, "Figures"), el("div", { class: "controls" }, el("label", {}, "study ", el("select", { id: "study", onchange: (e) => { location.hash = hashOf({ study: e.target.value, figure: null }); } },
    STUDIES.map((s) => el("option", { value: s, selected: s === study }, s.replaceAll("_", " ")))))));
  const views = DATA.figures.filter((f) => f.study === study).map(figureView);
  main.append(...views.map((v) => v.card));
  // A figure draws itself when it comes into sight: dozens at once would keep the reader waiting.
  const watcher = new IntersectionObserver((entries) => entries.forEach((e) => { if (e.isIntersecting) { watcher.unobserve(e.target); views.find((v) => v.card === e.target).draw(); } }), { rootMargin: "300px" });
  views.forEach((v) => watcher.observe(v.card));
  const aim = state.figure && document.getElementById(state.figure);
  if (aim) aim.scrollIntoView();
}

function spreadOf(c) {
  return number(c.measured, 4) + (c.low !== null && c.high !== null ? ` [${number(c.low, 4)}, ${number(c.high, 4)}]` : "");
}

function statedOf(c) {
  return c.published === null ? "–" : { equal: "", "at least": "≥ ", "at most": "≤ " }[c.compare] + number(c.published, 4);
}

function claimsView(state, main) {
  const count = (v) => DATA.claims.filter((c) => c.verdict === v).length;
  main.append(el("h2", {}, "Claims"), el("p", {}, `${DATA.claims.length} claims of the literature: ${count("holds")} hold, ${count("differs")} differ, ${count("not reached")} were not reached. A claim that differs is shown as it was made.`),
    el("div", { class: "controls" }, ["", "holds", "differs", "not reached"].map((v) => el("a", { href: hashOf({ verdict: v || null }), "aria-current": (state.verdict || "") === v ? "true" : null }, v || "all"))));
  const wanted = (state.q || "").toLowerCase();
  const shown = DATA.claims.filter((c) => (!state.verdict || c.verdict === state.verdict) && `${c.id} ${c.statement} ${c.source}`.toLowerCase().includes(wanted));
  main.append(table(["id", "claim", "stated", "exact", "measured", "verdict"], shown.map((c) => [c.id, [c.statement, el("br"), el("small", {}, `${c.source}; ${c.kind}`)],
    statedOf(c), number(c.exact, 4), spreadOf(c), el("span", { class: `badge ${SHORT[c.verdict]}` }, c.verdict)])));
}

function runView(state, main) {
  const seconds = Object.entries(DATA.facts.seconds || {});
  const rows = Object.entries(DATA.facts).filter(([k]) => k !== "seconds");
  main.append(el("h2", {}, "This run"), el("dl", { class: "facts" }, rows.map(([k, v]) => [el("dt", {}, k), el("dd", {}, String(v))])));
  if (seconds.length) main.append(table(["study", "seconds"], seconds.map(([k, v]) => [k.replaceAll("_", " "), v])));
}

const VIEWS = { figures: ["Figures", figuresView], claims: ["Claims", claimsView], run: ["Run", runView] };

function render() {
  if (timer) { clearInterval(timer); timer = null; }
  const state = readState(), names = Object.keys(VIEWS).filter((v) => v !== "claims" || DATA.claims.length);
  const view = names.includes(state.view) ? state.view : state.q ? "claims" : "figures";
  document.getElementById("tabs").replaceChildren(...names.map((key) => el("a", { href: hashOf({ view: key, q: null }), "aria-current": key === view ? "page" : null }, VIEWS[key][0])));
  const main = document.getElementById("main");
  main.replaceChildren();
  VIEWS[view][1](state, main);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.getElementById("theme").addEventListener("click", () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); render(); });
document.getElementById("search").placeholder = "find a claim";
document.getElementById("search").hidden = !DATA.claims.length;
document.getElementById("search").value = readState().q || "";
document.getElementById("search").addEventListener("input", (e) => { history.replaceState(null, "", hashOf({ q: e.target.value, view: "claims" })); render(); });
addEventListener("hashchange", render);
render();
