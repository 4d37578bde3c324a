// The other views: overview, map, dictionary.
const HEADINGS = { polysemanticity: "How polysemantic?", cause: "Why?", dictionary: "Which features?", explanation: "What do units respond to?", model: "The model" };

function overview(state, main) {
  for (const [about, heading] of Object.entries(HEADINGS)) {
    const found = DATA.overview.sentences.filter((s) => s.about === about);
    if (found.length) main.append(el("h2", {}, heading), el("div", { class: "panel" }, found.map((s) => el("p", { class: "lead" }, s.text))));
  }
  main.append(el("div", { class: "panel not" }, el("strong", {}, "What this does not show. "),
    "A unit with several kinds of context is polysemantic; that alone says nothing about superposition. A unit that is not flagged may still mix many faint meanings. ",
    "Everything here is about this text: features that it does not contain cannot show."));
  main.append(el("h2", {}, "Numbers by site"));
  for (const site of SITES) main.append(el("h3", {}, site), measurements(DATA.measurements.filter((m) => m.site === site)));
  main.append(el("h2", {}, "Words"), el("dl", { class: "facts" }, Object.entries(TERMS).map(([k, v]) => [el("dt", {}, k.replaceAll("_", " ")), el("dd", {}, v)])));
}

const AXES = ["eta2", "kurtosis", "density", "mean", "cluster_z", "senses", "rho", "index"];

function mapView(state, main) {
  const site = state.site || SITES[0], x = state.x || "eta2", y = state.y || "cluster_z";
  const select = (name, value, options) => el("label", {}, `${name} `, el("select", { onchange: (e) => go({ [name]: e.target.value }) },
    options.map((o) => el("option", { value: o, selected: o === value }, o.replace("eta2", "η²").replaceAll("_", " ")))));
  const shown = UNITS.filter((u) => u.site === site && u[x] !== null && u[y] !== null);
  const picture = el("div", { class: "plot", role: "img", "aria-label": `units of ${site}: ${y} over ${x}` });
  const list = el("ul", { class: "units", id: "brushed", "aria-label": "units" });
  const count = el("p", { class: "soft" });
  main.append(el("h2", {}, "Map of units"), el("p", { class: "soft" }, "Drag over the map to list units; click one to open it; ↑ ↓ walk the list. Filled: has a card."),
    el("div", { class: "controls" }, select("site", site, SITES), select("x", x, AXES), select("y", y, AXES)),
    el("div", { class: "columns" }, picture, el("div", {}, count, list)));
  const fill = (units) => {
    count.textContent = `${units.length} units${units.length > 300 ? ", the first 300 listed" : ""}`;
    list.replaceChildren(...units.slice(0, 300).map((u) => el("li", {}, unitLink(u.unit, `${u.unit}${u.has_card ? " ●" : ""}`))));
  };
  fill([...shown].sort((a, b) => Number(b.has_card) - Number(a.has_card)));
  list.addEventListener("keydown", walk);
  const traces = [["not flagged", false, "--soft", "circle"], ["several kinds of context", true, "--accent", "diamond"]].map(([name, flag, color, symbol]) => {
    const part = shown.filter((u) => Boolean(u.polysemantic) === flag);
    return { type: "scatter", mode: "markers", name, x: part.map((u) => u[x]), y: part.map((u) => u[y]), customdata: part.map((u) => u.unit), hovertemplate: "%{customdata}<extra></extra>",
      marker: { color: cssColor(color), symbol: part.map((u) => (u.has_card ? symbol : `${symbol}-open`)), size: 7 } };
  });
  plot(picture, traces, { dragmode: "select", legend: { orientation: "h", y: 1.08 }, xaxis: { title: { text: x.replace("eta2", "η²").replaceAll("_", " ") } }, yaxis: { title: { text: y.replace("eta2", "η²").replaceAll("_", " ") } } }).then(() => {
    picture.on("plotly_selected", (event) => fill(event ? event.points.map((p) => BY_NAME.get(p.customdata)) : shown));
    picture.on("plotly_click", (event) => go({ view: "unit", unit: event.points[0].customdata }));
  });
}

const VIEWS = { overview: ["Overview", overview], map: ["Map", mapView], unit: ["Unit", unitView], dictionary: ["Dictionary", dictionaryView], checks: ["Why?", checksView], run: ["Run", factsView] };
