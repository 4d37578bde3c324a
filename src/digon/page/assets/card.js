// One unit: numbers, histogram, explanations, exemplars, checks, neighbors.
function unitView(state, main) {
  const unit = BY_NAME.get(state.unit) || UNITS.find((u) => u.has_card) || UNITS[0];
  const card = DATA.cards[unit.unit];
  main.append(el("h2", { id: "unit-name" }, unit.unit), el("p", { class: "soft" }, `${unit.kind} ${unit.index} of ${unit.site} `,
    el("button", { type: "button", onclick: copyLink }, "copy link"), " ", step(unit, -1, "← previous card"), " ", step(unit, 1, "next card →")));
  if (!card) {
    const known = ["density", "mean", "kurtosis", "eta2", "cluster_z", "senses"];
    main.append(el("p", { class: "panel not" }, "This unit was measured but has no card: exemplars and explanations were made for some units of each site only (more with --cards)."),
      table(["what", "value"], known.map((k) => [term(k), number(unit[k])])));
    return;
  }
  const numbers = el("div", {}, el("h3", {}, "Measured"), measurements(card.measurements));
  const picture = el("div", { class: "plot small", role: "img", "aria-label": "histogram of activations" });
  main.append(el("div", { class: "columns" }, numbers, el("div", {}, el("h3", {}, "Activations"), picture)));
  histogram(picture, card.histogram);
  main.append(el("h3", {}, "Explanations"), explanations(card), el("h3", {}, "Exemplars"), exemplars(card, state));
  if (card.neighbors.length) main.append(el("h3", {}, card.kind === "latent" ? "Nearest latents (cosine of atoms)" : "Nearest units (correlation)"),
    el("ul", { class: "units" }, card.neighbors.map((n) => el("li", {}, unitLink(n.unit, `${n.unit}  ${number(n.cosine)}`)))));
  const site = DATA.diagnoses.find((d) => d.site === card.site);
  if (site) main.append(el("h3", {}, "Checks on its site"), checksTable(site.checks));
}

function step(unit, by, label) {
  const names = UNITS.filter((u) => u.has_card && u.site === unit.site).map((u) => u.unit);
  const at = names.indexOf(unit.unit);
  const next = names[(at + by + names.length) % names.length];
  return next ? unitLink(next, label) : null;
}

function copyLink(event) {
  const done = () => { event.target.textContent = "copied"; };
  if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(done, () => prompt("link", location.href));
  else prompt("link", location.href);
}

function histogram(node, h) {
  if (!h) return;
  const middle = h.counts.map((_, i) => (h.edges[i] + h.edges[i + 1]) / 2);
  plot(node, [{ type: "bar", x: middle, y: h.counts, marker: { color: `rgb(${cssColor("--real")})` }, hovertemplate: "%{x:.3g}: %{y} tokens<extra></extra>" }],
    { bargap: 0.05, yaxis: { type: "log", title: { text: "tokens" } }, xaxis: { title: { text: "activation" } } });
}

function explanations(card) {
  return table(["explainer", "explanation", "bits", "ρ top and random", "ρ random only", "another unit's ρ"], card.explanations.map((e) => [
    e.explainer, el("span", {}, visible(e.text)), number(e.bits),
    e.score ? interval(e.score.top_and_random) : "–", e.score ? interval(e.score.random_only) : "–", e.score ? number(e.score.baseline.value) : "–"]));
}

function exemplars(card, state) {
  const scale = Math.max(0, ...card.exemplars.flatMap((e) => e.activations));
  const names = card.explanations.map((e) => e.explainer);
  const chosen = state.sim === undefined ? names[names.length - 1] : state.sim;
  const pick = el("select", { "aria-label": "simulated activations by", onchange: (event) => go({ sim: event.target.value }) },
    [...names, "none"].map((n) => el("option", { value: n, selected: n === chosen }, n)));
  const groups = ["top", "quantile", "random", "near miss"].map((stratum) => {
    const found = card.exemplars.filter((e) => e.stratum === stratum);
    return found.length ? [el("h4", { class: "soft" }, stratum), found.map((e) => excerpt(e, scale, chosen))] : null;
  });
  return el("div", {}, el("div", { class: "controls" }, el("label", {}, "simulated by ", pick), el("small", {}, `color scale 0 to ${number(scale)}`)), groups);
}
