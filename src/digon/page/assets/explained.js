// The page of `digon explain`: what was found, all units, one unit, the run with its bill.
const ABOUT = { missing: "What is missing", explanation: "What do units respond to?", words: "In words" };

function explainedView(state, main) {
  for (const [about, heading] of Object.entries(ABOUT)) {
    const found = DATA.overview.sentences.filter((s) => s.about === about);
    if (found.length) main.append(el("h2", {}, heading), el("div", { class: about === "missing" ? "panel not" : "panel" }, found.map((s) => el("p", { class: "lead" }, s.text))));
  }
  const curves = DATA.curves.filter((c) => c.y.some((v) => v !== null));
  if (curves.length) {
    const picture = el("div", { class: "plot", role: "img", "aria-label": `explained variance against bits per unit for ${curves.map((c) => c.name).join(", ")}` });
    main.append(el("h2", {}, "Rate and distortion"), el("p", { class: "soft" }, "How much of the units' variance can be said in so many bits per unit? Mean over units; each takes what does best on the select split among the explanations it can afford, measured on unseen documents. Bands: 95 % over units."), picture);
    curvesChart(picture, curves);
  }
  main.append(el("div", { class: "panel not" }, el("strong", {}, "What this does not show. "), "A high ρ says that the explanation predicts the unit on this kind of text, not that it is the only reading, nor that the network uses the unit so. ",
    "ρ on top and random excerpts flatters: look at ρ over all tokens, and at what other units' explanations reach."));
  main.append(el("h2", {}, "Explainers by site"));
  for (const site of DATA.facts.sites) main.append(el("h3", {}, site), ...explainersTable(DATA.measurements.filter((m) => m.site === site)));
}

function curvesChart(picture, curves) {
  const colors = ["--accent", "--link", "--good", "--cause-manifold", "--cause-lookup", "--cause-relational", "--cause-magnitude", "--soft"];
  const traces = curves.flatMap((c, i) => {
    const color = cssColor(colors[i % colors.length]), band = c.low.some((v) => v !== null);
    return [...(band ? [{ type: "scatter", mode: "lines", x: [...c.x, ...[...c.x].reverse()], y: [...c.high, ...[...c.low].reverse()], fill: "toself", line: { width: 0 }, fillcolor: color, opacity: 0.14, hoverinfo: "skip", showlegend: false, legendgroup: c.name }] : []),
      { type: "scatter", mode: "lines+markers", name: c.name, legendgroup: c.name, x: c.x, y: c.y, line: { color, width: 2, dash: i >= colors.length ? "dot" : "solid" }, marker: { size: 5 }, hovertemplate: `${"%{x:.4g} bits: %{y:.3f}"}<extra>${"%{fullData.name}"}</extra>` }];
  });
  plot(picture, traces, { legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: { type: "log", title: { text: "bits per unit" }, dtick: 1, exponentformat: "power" }, yaxis: { title: { text: "explained variance, mean of ρ²" }, range: [-0.02, 1.02] } });
}

// Measurements named `explainer: score` as a table with a row per explainer.
function explainersTable(list) {
  const named = new Map(), rest = [];
  for (const m of list) {
    const at = m.name.lastIndexOf(": ");
    if (at < 0) { rest.push(m); continue; }
    named.set(m.name.slice(0, at), { ...(named.get(m.name.slice(0, at)) || {}), [m.name.slice(at + 2)]: m });
  }
  const shown = SCORES.filter(([key]) => [...named.values()].some((found) => found[key] && found[key].value !== null));
  const judged = [...new Set([...named.values()].flatMap((found) => Object.keys(found)))].filter((key) => key !== "bits" && !SCORES.some(([known]) => known === key));
  const cell = (found, key) => el("span", { class: "numeral", title: found[key] ? `${found[key].method}; ${found[key].n} units` : null }, found[key] ? score(found[key]) : "–");
  const chance = (key) => [...named.values()].map((found) => found[key]).find((m) => m).null;
  const rows = [...named].sort((a, b) => compare(a[1].top_and_random?.value, b[1].top_and_random?.value, true)).map(([name, found]) => [name,
    ...shown.map(([key]) => cell(found, key)), ...judged.map((key) => cell(found, key)), number(found.bits ? found.bits.value : null), found.top_and_random ? found.top_and_random.n : 0]);
  return [table(["explainer", ...shown.map(([, name, key]) => (key ? term(key, name) : name)), ...judged.map((key) => `${key} (chance ${number(chance(key))})`), term("bits"), "units"], rows), ...(rest.length ? [measurements(rest)] : [])];
}

function runView(state, main) {
  const bill = DATA.facts["language model"];
  if (bill) {
    main.append(el("h2", {}, "The language model"), el("p", { class: "soft" }, bill.who));
    if (bill.stopped) main.append(el("p", { class: "panel not" }, bill.stopped));
    main.append(el("div", { class: "tiles" }, bill.tiles.map(([name, shown, note]) => el("div", { class: "tile" }, el("b", {}, shown), el("small", {}, name), note ? el("small", { class: "soft" }, note) : null))));
    if (bill.failures.length) main.append(el("h3", {}, "What failed"), table(["times", "what", "such as"], bill.failures.map((f) => [f.times, f.problem, unitLink(f.unit)])));
    if (bill.notes.length) main.append(el("h3", {}, "What was done otherwise, or beside"), el("ul", {}, bill.notes.map((note) => el("li", {}, note))));
  }
  factsView(state, main);
}

const VIEWS = { overview: ["Overview", explainedView], units: ["Units", indexView], unit: ["Unit", unitView], run: ["Run", runView] };
