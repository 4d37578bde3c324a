// What explanations of a unit are worth: the ladder as a table, rate and distortion, coverage, senses, provenance.
Object.assign(TERMS, {
  rho_top_and_random: "correlation of real and simulated activations over 5 excerpts with the largest activations and 5 random ones, all of unseen documents; nothing explained reads 0",
  rho_random_only: "the same over random excerpts alone: what the explanation is worth away from the unit's peaks",
  rho_population: "the same over all tokens of unseen documents",
  permuted: "score of the same simulated values put on other excerpts: what chance reaches",
  ablation: "share of what the network does with the unit that survives when simulated values stand in for it; 1 = all, 0 = as its mean",
  effective: "effective number of explanations: 1 / sum of squared shares of what each adds to ρ² on unseen documents; 1 = one explanation does it all",
  "simulated share": "share of the scored tokens for which the language model gave a value; the others are left out, never taken as 0",
});
const SCORES = [["top_and_random", "ρ top and random", "rho_top_and_random"], ["random_only", "ρ random only", "rho_random_only"], ["population", "ρ all tokens", "rho_population"], ["baseline", "another unit's", null], ["permuted", "permuted", "permuted"], ["ablation", "ablation", "ablation"]];

function ladder(card) {
  const scored = card.explanations.filter((e) => e.score), shown = SCORES.filter(([key]) => scored.some((e) => e.score[key] && e.score[key].value !== null));
  const partial = scored.some((e) => e.score.simulated_share < 1), choices = [...new Set(scored.flatMap((e) => e.score.choices.map((m) => m.name)))];
  const top = Math.max(...scored.map((e) => e.score.top_and_random.value ?? -1));
  const head = ["explainer", "explanation", term("bits"), ...shown.map(([, name, key]) => (key ? term(key, name) : name)), partial ? term("simulated share") : null, ...choices.map((name) => `${name} (chance ${number(scored.flatMap((e) => e.score.choices).find((m) => m.name === name).null)})`)];
  const keep = (cells) => cells.filter((c, i) => head[i] !== null);
  const rows = card.explanations.map((e) => keep([
    el("span", { class: "together" }, e.score && e.score.top_and_random.value === top && scored.length > 1 ? el("strong", { title: "best on top and random" }, `${e.explainer} ★`) : e.explainer),
    el("span", { class: "said" }, visible(e.text), e.score && e.score.flags.length ? [" ", explain(`notes on ${e.explainer}`, el("ul", {}, e.score.flags.map((flag) => el("li", {}, flag))), "!")] : null, e.provenance ? provenance(e.provenance) : null), number(e.bits),
    ...shown.map(([key]) => el("span", { class: "numeral", title: e.score && e.score[key] ? e.score[key].method : null }, e.score && e.score[key] ? score(e.score[key]) : "–")),
    partial ? (e.score ? `${number(100 * e.score.simulated_share)} %` : "–") : null,
    ...choices.map((name) => { const m = e.score && e.score.choices.find((c) => c.name === name); return m ? el("span", { class: "numeral", title: `${m.method}; a constant answer reads ${number(m.null)}` }, score(m)) : "–"; })]));
  return el("div", { class: "ladder" }, table(head.filter((h) => h !== null), rows));
}

function score(m) {
  if (m.value === null) return "–";
  return m.low === null || m.high === null ? m.value.toFixed(2) : `${m.value.toFixed(2)} [${m.low.toFixed(2)}, ${m.high.toFixed(2)}]`;
}

function provenance(p) {
  return el("small", { class: "flag" }, `${p.model} ${p.address.startsWith("this process") ? "in" : "at"} ${p.address}; ${p.calls} answer${p.calls === 1 ? "" : "s"}${p.method ? `; simulated by: ${p.method}` : ""}; prompt ${p.prompt.slice(0, 8)}`);
}

// Explained variance against bits: one point per explanation, the ceiling of all that see one token only.
function rateChart(card) {
  const of = (e) => (e.score.population && e.score.population.value !== null ? e.score.population : e.score.top_and_random);
  const points = card.explanations.filter((e) => e.score && of(e).value !== null && e.bits > 0);
  if (points.length < 2) return null;
  const square = (v) => (v === null ? null : Math.max(v, 0) ** 2);
  const eta = card.measurements.find((m) => m.name === "eta2" && m.value !== null), sorted = [...points].sort((a, b) => a.bits - b.bits);
  let best = -1;
  const front = sorted.filter((e) => square(of(e).value) > best && (best = square(of(e).value)) > -1);
  let last = -1; // names that would lie on each other are left to the pointer
  const labels = sorted.map((e) => (front.includes(e) && Math.log10(e.bits) - last > 0.55 ? ((last = Math.log10(e.bits)), e.explainer) : ""));
  const picture = el("div", { class: "plot medium", role: "img", "aria-label": `explained variance against bits: ${sorted.map((e) => `${e.explainer} ${number(e.bits)} bits ${number(square(of(e).value))}`).join("; ")}` });
  const from = Math.log10(sorted[0].bits) - 0.4, to = Math.log10(sorted[sorted.length - 1].bits) + 0.3, ceiling = eta ? Math.max(eta.value, 0) : null;
  const draw = () => plot(picture, [
    { type: "scatter", mode: "lines", line: { shape: "hv", color: cssColor("--line"), width: 2 }, x: front.map((e) => e.bits), y: front.map((e) => square(of(e).value)), hoverinfo: "skip" },
    { type: "scatter", mode: "markers+text", x: sorted.map((e) => e.bits), y: sorted.map((e) => square(of(e).value)), text: labels, textposition: "top center", cliponaxis: false, textfont: { size: 11 },
      marker: { color: sorted.map((e) => cssColor(e.provenance ? "--link" : "--accent")), symbol: sorted.map((e) => (e.provenance ? "diamond" : "circle")), size: 9 }, customdata: sorted.map((e) => e.explainer),
      error_y: { type: "data", symmetric: false, thickness: 1, color: cssColor("--soft"), array: sorted.map((e) => Math.max(0, (square(of(e).high) ?? square(of(e).value)) - square(of(e).value))), arrayminus: sorted.map((e) => Math.max(0, square(of(e).value) - (square(of(e).low) ?? square(of(e).value)))) },
      hovertemplate: "%{customdata}: %{y:.3f} at %{x:.4g} bits<extra></extra>" }],
    { showlegend: false, margin: { l: 52, r: 14, t: 16, b: 44 }, xaxis: { type: "log", title: { text: "bits" }, range: [from, to], ...(to - from > 1.2 ? { dtick: 1, exponentformat: "power" } : { nticks: 4 }) }, yaxis: { title: { text: "explained variance ρ²" }, range: [-0.03, 1.09] },
      shapes: ceiling === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: ceiling, y1: ceiling, line: { color: cssColor("--good"), dash: "dash", width: 1.5 } }],
      annotations: ceiling === null ? [] : [{ xref: "paper", x: 0, xanchor: "left", y: ceiling, yanchor: ceiling > 0.9 ? "top" : "bottom", text: "η²: all that one token can say", showarrow: false, font: { color: cssColor("--good"), size: 11 } }] }, false);
  return { node: picture, draw };
}

function coverageChart(coverage) {
  if (!coverage || !coverage.names.length) return null;
  const k = coverage.names.map((_, i) => i + 1), picture = el("div", { class: "plot medium", role: "img", "aria-label": `explained variance of the first explanations together: ${coverage.explained.map(number).join(", ")}` });
  const draw = () => plot(picture, [{ type: "scatter", mode: "lines+markers", x: [0, ...k], y: [0, ...coverage.explained], customdata: ["nothing", ...coverage.names], line: { color: cssColor("--accent"), width: 2 }, marker: { size: 8 },
    error_y: { type: "data", symmetric: false, thickness: 1, array: [0, ...coverage.high.map((h, i) => Math.max(0, (h ?? coverage.explained[i]) - coverage.explained[i]))], arrayminus: [0, ...coverage.low.map((l, i) => Math.max(0, coverage.explained[i] - (l ?? coverage.explained[i])))] },
    hovertemplate: "with %{customdata}: %{y:.3f}<extra></extra>" }],
    { showlegend: false, margin: { l: 52, r: 14, t: 16, b: 44 }, xaxis: { title: { text: "explanations together" }, dtick: Math.max(1, Math.ceil(k.length / 10)), range: [-0.3, k.length + 0.3] }, yaxis: { title: { text: "explained variance ρ²" }, rangemode: "tozero" } }, false);
  return { node: picture, draw };
}

function sensesList(senses) {
  return el("div", { class: "bars senses" }, senses.map((s) => el("div", { class: "bar" }, el("span", {}, visible(s.text)),
    el("div", { class: "track" }, el("i", { style: `width: ${(100 * Math.min(1, Math.max(0, s.share ?? 0))).toFixed(1)}%; background: rgb(var(--real))` })), el("span", { class: "numeral" }, s.share === null ? "–" : `${(100 * s.share).toFixed(0)} %`))));
}

function promotionsList(card) {
  if (!card.promotions.length) return null;
  const side = (heading, list) => (list.length ? el("section", {}, el("h4", {}, heading), el("div", { class: "chips" }, list.map((p) => el("span", { class: "chip", title: `${number(p.logit)} logits per unit of activation` }, el("code", {}, visible(p.token)), ` ${number(p.logit)}`)))) : null);
  return el("div", { class: "columns halves" }, side("raises", card.promotions.filter((p) => p.logit > 0)), side("lowers", card.promotions.filter((p) => p.logit <= 0)));
}
