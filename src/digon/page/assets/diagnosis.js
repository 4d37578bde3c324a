// Why? The verdict on a site: causes, checks, number of features, blocks, and the share of every cause in every unit.
const MEANINGS = {
  none: "no features that could be told apart", monosemantic: "one feature per unit", rotated: "features that are mixed linearly, no more than there are units",
  superposition: "more sparse features than dimensions", manifold: "features on circles or other curves", magnitude: "features told apart by size, not by direction",
  relational: "variables that are present only through each other", lookup: "a look-up code of single inputs", mixed: "several of these side by side",
  undecided: "what was given does not say",
};
const ACCESS = {
  A: "activations", "A+": "activations and the identity of the inputs", B: "activations and labels of the inputs", C: "activations and the network", D: "activations, the network and its training",
};
const OUTCOMES = {
  for: "the data speaks for the claim", against: "the data speaks against the claim", silent: "the check saw nothing: that proves nothing unless it says so", "not applicable": "the check cannot answer with what it was given",
};

function causeColor(cause) {
  return cssColor(`--cause-${MEANINGS[cause] ? cause : "undecided"}`);
}

function causeBadge(cause) {
  return el("span", { class: "cause", title: MEANINGS[cause], style: `--cause: var(--cause-${MEANINGS[cause] ? cause : "undecided"})` }, cause);
}

function checkFacts(c) {
  const s = c.statistic, row = (name, value) => (value === null || value === undefined || value === "" ? null : [el("dt", {}, name), el("dd", {}, value)]);
  return [el("strong", {}, `${c.id} ${c.title}`), el("dl", { class: "facts" }, row("claim", c.claim), row("outcome", `${c.verdict}: ${OUTCOMES[c.verdict]}`),
    s ? [row("statistic", s.name.replaceAll("_", " ")), row("how", s.method), row("value", interval(s)), row("where there is nothing to find", s.null === null ? null : number(s.null)),
      row("threshold", c.threshold === null ? null : number(c.threshold)), row("p", s.p === null ? null : number(s.p)), row("sample", s.n ? s.n.toLocaleString("en-US") : null), row("source", s.source)] : null,
    row("speaks against", c.excludes.join(", ")))];
}

// The button stays with the last word: a line may break before that, not between them.
function checkName(c) {
  const words = c.title.split(" "), last = words.pop();
  return el("span", { class: "check" }, el("strong", {}, c.id), ` ${words.map((word) => `${word} `).join("")}`, el("span", { class: "together" }, last, " ", explain(`definition of ${c.id}`, checkFacts(c))));
}

function checksTable(checks) {
  return table(["check", "outcome", "what was seen", "statistic", "threshold"], checks.map((c) => [
    checkName(c),
    el("span", { class: `badge chip ${c.verdict.replace(" ", "-")}`, title: OUTCOMES[c.verdict] }, c.verdict === "not applicable" ? "n.a." : c.verdict),
    [c.sentence, c.excludes.length ? el("div", { class: "gone" }, el("small", {}, "speaks against "), c.excludes.map((cause) => causeBadge(cause))) : null],
    c.statistic ? [el("span", { class: "numeral" }, interval(c.statistic)), el("br"), el("small", {}, c.statistic.name.replaceAll("_", " "))] : "–",
    c.threshold === null ? "–" : el("span", { class: "numeral" }, number(c.threshold))]));
}

function countText(n) {
  if (n.point === null && n.lower === null) return "–";
  return number(n.point === null ? n.lower : n.point, 4);
}

function tiles(d) {
  const n = d.n_features, known = n.point !== null || n.lower !== null;
  const range = `${n.lower === null ? "" : `at least ${number(n.lower, 4)}, `}${n.upper === null ? "unbounded above" : `at most ${number(n.upper, 4)}`}`;
  const tile = (value, name, more) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, name), el("small", {}, more));
  const others = [[d.rank, "dimensions", "that the activations span"], [d.load, "load", "features per dimension"], [d.active, "active", "features per row, on average"]];
  return el("div", { class: "tiles" }, known ? tile(countText(n), "features", range) : null, others.map(([value, name, more]) => (value === null ? null : tile(number(value), name, more))),
    tile(d.access, "access", ACCESS[d.access] || ""));
}

function posterior(d) {
  const shown = Object.entries(d.posterior).sort((a, b) => b[1] - a[1]);
  if (!shown.length) return null;
  return el("div", {}, el("h3", {}, "Probability of every cause ", explain("what these probabilities mean", "Probability given the statistics of the checks, if the cause is one of those that the benchmark simulates. The set of causes above holds the true one in at least nine of ten such cases; what lies outside the benchmark is called undecided.")),
    el("div", { class: "bars", role: "list" }, shown.map(([cause, p]) => el("div", { class: d.causes.includes(cause) ? "bar" : "bar out", role: "listitem", title: MEANINGS[cause] },
      el("span", {}, cause), el("span", { class: "track" }, el("i", { style: `width: ${(100 * p).toFixed(1)}%; background: var(--cause-${cause})` })), el("span", { class: "numeral" }, p >= 0.001 ? p.toFixed(3) : "< .001")))));
}

function counted(d) {
  if (!d.counts.length) return null;
  const picture = el("div", { class: "plot small", role: "img", "aria-label": "number of features by method" });
  const draw = () => {
    const shown = [...d.counts].reverse(), names = shown.map((m) => m.name.replaceAll("_", " ")), x = shown.map((m) => m.value), ink = cssColor("--ink");
    const error = (m, end) => (m[end] === null ? 0 : Math.abs(m[end] - m.value));
    const ends = d.counts.flatMap((m) => [m.value, m.low, m.high]).concat([d.rank, d.n_features.upper]).filter((v) => v !== null && v > 0);
    const log = Math.max(...ends) > 20 * Math.min(...ends), at = (v) => (log ? Math.log10(v) : v);
    const line = (v, dash, color) => ({ type: "line", x0: v, x1: v, yref: "paper", y0: 0, y1: 1, line: { color, dash, width: 1.5 } });
    const shapes = [], notes = [], n = d.n_features;
    if (n.lower > 0 && n.upper !== null) shapes.push({ type: "rect", x0: n.lower, x1: n.upper, yref: "paper", y0: 0, y1: 1, fillcolor: cssColor("--accent"), opacity: 0.13, line: { width: 0 } });
    if (d.rank > 0) { shapes.push(line(d.rank, "dot", cssColor("--soft"))); notes.push({ x: at(d.rank), y: 1, yref: "paper", yanchor: "bottom", text: "rank", showarrow: false, font: { color: cssColor("--soft") } }); }
    if (n.point > 0) { shapes.push(line(n.point, "solid", cssColor("--accent"))); notes.push({ x: at(n.point), y: 1, yref: "paper", yanchor: "bottom", text: "verdict", showarrow: false, font: { color: cssColor("--accent") } }); }
    plot(picture, [{ type: "scatter", mode: "markers", x, y: names, marker: { color: ink, size: 9 }, customdata: shown.map((m) => `${interval(m)}<br>${m.method}`), hovertemplate: "%{y}: %{customdata}<extra></extra>",
      error_x: { type: "data", symmetric: false, array: shown.map((m) => error(m, "high")), arrayminus: shown.map((m) => error(m, "low")), color: ink, thickness: 1.5 } }],
      { shapes, annotations: notes, margin: { l: 10, r: 10, t: 30, b: 45 }, xaxis: { title: { text: "features" }, type: log ? "log" : "linear", rangemode: "tozero" }, yaxis: { automargin: true } }, false);
  };
  return { node: el("div", {}, el("h3", {}, "How many features, by method"), picture), draw };
}

// Stacked shares of the causes, one column per unit.
function budgetMap(d) {
  const causes = Object.keys(d.budget).filter((cause) => d.budget[cause].some((v) => v > 0.0005)), width = causes.length ? d.budget[causes[0]].length : 0;
  if (!width) return null;
  const picture = el("div", { class: "plot small", role: "img", "aria-label": "share of every cause in every unit" });
  const means = causes.map((cause) => [cause, mean(d.budget[cause])]).sort((a, b) => b[1] - a[1]);
  const orders = ["unit", ...means.map(([cause]) => cause)];
  const draw = (order) => {
    const units = [...Array(width).keys()];
    if (order !== "unit") units.sort((a, b) => d.budget[order][b] - d.budget[order][a] || a - b);
    const traces = means.map(([cause]) => ({ type: "bar", name: cause, x: units.map((_, i) => i), y: units.map((u) => d.budget[cause][u]), customdata: units, marker: { color: causeColor(cause), line: { width: 0 } },
      hovertemplate: `unit %{customdata}<br>${cause}: %{y:.2f}<extra></extra>` }));
    plot(picture, traces, { barmode: "stack", bargap: width > 200 ? 0 : 0.08, legend: { orientation: "h", y: 1.18, traceorder: "normal" }, hovermode: "closest", yaxis: { range: [0, 1], title: { text: "share of the variance" } },
      xaxis: { title: { text: order === "unit" ? "unit" : `units by their share of ${order}` }, showgrid: false, ...(order === "unit" ? {} : { tickvals: units.map((_, i) => i).filter((i) => i % Math.ceil(width / 24) === 0), ticktext: units.filter((_, i) => i % Math.ceil(width / 24) === 0).map(String) }) } }, false)
      .then(() => picture.on("plotly_click", (event) => openUnit(d.site, event.points[0].customdata)));
  };
  const select = el("select", { "aria-label": "order of the units", onchange: (event) => draw(event.target.value) }, orders.map((o) => el("option", { value: o }, o === "unit" ? "unit number" : `share of ${o}`)));
  const strip = el("div", { class: "strip" }, means.map(([cause, share]) => el("i", { style: `flex: ${share.toFixed(4)}; background: var(--cause-${cause})`, title: `${cause}: ${(100 * share).toFixed(0)} %` })));
  const sentence = means.filter(([, share]) => share >= 0.005).map(([cause, share]) => `${cause} ${(100 * share).toFixed(0)} %`).join(" · ");
  const missing = d.budget[causes[0]].filter((v) => v === null).length;
  return { draw: () => draw("unit"), node: el("div", {}, el("h3", {}, "Cause map of units ", explain("what the map shows", "How much of each unit's variance comes from features of each cause. The shares of a unit sum to 1.")),
    strip, el("p", { class: "soft" }, `All units together: ${sentence}.`, missing ? ` Without shares, as they never vary: ${missing}.` : ""), el("div", { class: "controls" }, el("label", {}, "order by ", select)), picture) };
}

function mean(values) {
  const known = values.filter((v) => v !== null);
  return known.reduce((sum, v) => sum + v, 0) / Math.max(1, known.length);
}

function openUnit(site, index) {
  if (typeof UNITS === "undefined") return;
  const unit = UNITS.find((u) => u.site === site && u.index === index);
  if (unit) go({ view: "unit", unit: unit.unit });
}

function blocksTable(d) {
  if (!d.blocks.length) return null;
  const rows = d.blocks.map((b) => [causeBadge(b.cause), b.n_features, b.rank, b.share === null ? "–" : el("span", { class: "numeral" }, `${(100 * b.share).toFixed(1)} %`), b.sentence,
    el("small", {}, b.units.slice(0, 12).join(", ") + (b.units.length > 12 ? ` and ${b.units.length - 12} more` : ""))]);
  return el("div", {}, el("h3", {}, "Parts that stand by themselves"), table(["cause", "features", "dimensions", "variance", "why", "units that carry it"], rows));
}

function list(title, entries) {
  return entries.length ? el("div", {}, el("h3", {}, title), el("ul", {}, entries.map((text) => el("li", {}, text)))) : null;
}

function verdictPanel(d) {
  return el("section", { class: "panel verdict" }, el("div", { class: "causes" }, d.causes.map((cause) => causeBadge(cause)), d.causes.length > 1 ? el("span", { class: "soft" }, "undecided between these") : null),
    el("p", { class: "lead" }, d.sentence), tiles(d));
}

function openPanel(d) {
  if (!d.undecided.length && !d.next_experiment) return null;
  return el("section", { class: "panel not" }, d.undecided.length ? [el("strong", {}, "What stays open"), el("ul", {}, d.undecided.map((text) => el("li", {}, text)))] : null,
    d.next_experiment ? el("p", {}, el("strong", {}, "What would decide: "), d.next_experiment.replace(/\.?$/, ".")) : null);
}

function sitesTable(chosen) {
  return el("div", { class: "panel" }, table(["site", "causes that are left", "features", "dimensions", "access"], DATA.diagnoses.map((d) => [
    el("a", { href: hashOf({ view: "checks", site: d.site }), "aria-current": d === chosen ? "true" : null }, d.site), d.causes.map((cause) => [causeBadge(cause), " "]), countText(d.n_features), number(d.rank), d.access])));
}

function checksView(state, main) {
  const d = DATA.diagnoses.find((one) => one.site === state.site) || DATA.diagnoses[0];
  if (!d) return main.append(el("h2", {}, "Why?"), el("p", {}, "No site of this run was diagnosed."));
  const count = counted(d), map = budgetMap(d);
  main.append(el("h2", {}, "Why? ", el("span", { class: "soft" }, d.site)));
  if (DATA.diagnoses.length > 1) main.append(sitesTable(d));
  main.append(verdictPanel(d));
  const likely = posterior(d), both = [likely, count && count.node].filter(Boolean);
  const parts = [openPanel(d), both.length ? el("div", { class: both.length > 1 ? "columns halves" : "" }, both) : null, list("What was found in the data", d.notes),
    d.checks.length ? el("div", {}, el("h3", {}, "Checks"), el("p", { class: "soft" }, "A cause stands unless something speaks against it. Silent: the check saw nothing, which proves nothing unless it says so."), checksTable(d.checks)) : null,
    map && map.node, blocksTable(d), d.measurements.length ? el("div", {}, el("h3", {}, "Measured"), measurements(d.measurements)) : null];
  main.append(...parts.filter(Boolean));
  for (const drawing of [count, map]) if (drawing) drawing.draw();
}
