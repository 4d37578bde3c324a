// Building blocks. Data becomes text nodes or attributes, never markup.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

function number(value, digits) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(digits || 3)));
}

function interval(m) {
  const known = m.low !== null && m.high !== null && m.low !== undefined;
  return number(m.value) + (known ? ` [${number(m.low)}, ${number(m.high)}]` : "") + (m.unit ? ` ${m.unit}` : "");
}

const TERMS = {
  density: "share of tokens on which the unit is above 0; range 0 to 1",
  kurtosis: "fourth standardized moment; a Gaussian reads 3, rare large values read more",
  eta2: "context-free ceiling η²: share of the unit's variance that the token alone decides; range 0 to 1, shuffled tokens read 0",
  cluster_z: "how far the exemplars' grouping lies beyond chance, in standard deviations of the nearer null; 0 = as chance",
  senses: "number of groups among the exemplars that beat both nulls; 1 = no evidence of several",
  polysemantic_share: "share of units whose exemplars fall into groups that the rest of the layer tells apart",
  participation_ratio: "(tr C)²/tr C²: how many dimensions carry the variance; isotropic noise reads the width",
  rho: "score of an explanation: correlation of real and simulated activations on unseen documents; a wrong one reads 0",
  fvu: "fraction of variance unexplained by the reconstruction; 0 = exact, 1 = no better than the mean",
  l0: "mean number of active latents per token",
  dead_share: "share of latents that are active on no token",
  dense_share: "share of latents that are active on more than a tenth of the tokens",
  bits: "description length of the explanation",
  mean: "mean activation",
  eta2_median: "median over units of the context-free ceiling η²",
  density_median: "median over units of the density",
  kurtosis_median: "median over units of the kurtosis",
  distinct_rows: "rows that differ from each other",
  numeric_rank: "dimensions that the units span: fewer than units if some are linear combinations of others",
  noise_rank: "dimensions above a floor of Gaussian noise; all of them where no floor is seen",
  tail_index: "α of P(length > x) ~ x^−α for whitened rows; moments beyond it do not exist, light tails read 10 and more",
  length_kurtosis: "fourth moment of the lengths of whitened rows over a Gaussian's; 1 = Gaussian",
  never_active_share: "share of units that are above 0 on no token",
};

function term(name, shown) {
  const text = shown || name.replaceAll("_", " ").replace("eta2", "η²");
  return TERMS[name] ? el("abbr", { title: TERMS[name], tabindex: 0 }, text) : text;
}

function table(head, rows) {
  const cells = (row, tag) => row.map((c) => el(tag, { class: typeof c === "number" ? "number" : null }, c));
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, cells(head, "th"))),
    el("tbody", {}, rows.map((row) => el("tr", {}, cells(row, "td"))))));
}

function measurements(list) {
  return table(["what", "value [95 % interval]", "null", "n", "method"], list.map((m) => [
    term(m.name), interval(m), number(m.null), m.n || (m.value === null ? 0 : "–"), el("small", {}, m.method, m.p !== null && m.p !== undefined ? ` (p = ${number(m.p)})` : ""),
  ]));
}

// A small button and what it explains, above everything else on the page.
let popovers = 0;
function explain(label, content, mark) {
  const id = `explain-${++popovers}`, box = el("div", { id, popover: "auto", class: "popover" }, content);
  const button = el("button", { type: "button", class: "explain", popovertarget: id, "aria-label": label }, mark || "i");
  box.addEventListener("beforetoggle", (event) => {
    if (event.newState !== "open") return;
    const at = button.getBoundingClientRect(), width = Math.min(420, innerWidth - 24);
    box.style.width = `${width}px`;
    box.style.left = `${Math.max(12, Math.min(at.left, innerWidth - width - 12))}px`;
    box.style.top = `${at.bottom + 6}px`;
    requestAnimationFrame(() => { const over = box.getBoundingClientRect().bottom - innerHeight + 8; if (over > 0) box.style.top = `${Math.max(8, at.bottom + 6 - over)}px`; });
  });
  return [button, box];
}

function factsView(state, main) {
  main.append(el("h2", {}, "This run"));
  const show = (value) => Array.isArray(value) ? el("ul", {}, value.map((v) => el("li", {}, el("code", {}, v))))
    : value !== null && typeof value === "object" ? el("dl", { class: "facts" }, Object.entries(value).map(([k, v]) => [el("dt", {}, k), el("dd", {}, show(v))])) : String(value);
  for (const [name, value] of Object.entries(DATA.facts)) if (!["title", "language model"].includes(name)) main.append(el("h3", {}, name), el("div", { class: "panel" }, show(value)));
}

function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function plot(node, traces, layout, bar) {
  const ink = cssColor("--ink"), line = cssColor("--line");
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  const base = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: ink, size: 12 }, margin: { l: 50, r: 10, t: 26, b: 45 }, modebar: { bgcolor: "transparent", color: cssColor("--soft"), activecolor: ink } };
  const full = { ...base, ...layout, xaxis: { ...axis, ...(layout.xaxis || {}) }, yaxis: { ...axis, ...(layout.yaxis || {}) } };
  return Plotly.newPlot(node, traces, full, { responsive: true, displaylogo: false, displayModeBar: bar === false ? false : "hover", modeBarButtonsToRemove: ["toImage"] });
}
