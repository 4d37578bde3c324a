// One unit: numbers, explanations, senses, coverage, automaton, exemplars, promotions, neighbors, checks.
const FOREIGN = DATA.facts.data && DATA.facts.data["written by"]; // the tool whose cards these are, if they are not ours

function unitView(state, main) {
  const unit = BY_NAME.get(state.unit) || UNITS.find((u) => u.has_card) || UNITS[0];
  const card = DATA.cards[unit.unit];
  main.append(el("h2", { id: "unit-name" }, unit.unit), el("p", { class: "soft" }, `${unit.kind} ${unit.index} of ${unit.site}${card && card.sign < 0 ? ": how far it falls, not how far it rises" : ""} `,
    el("button", { type: "button", onclick: copyLink }, "copy link"), " ", step(unit, -1, "← previous card"), " ", step(unit, 1, "next card →")));
  if (!card) {
    const known = ["density", "mean", "kurtosis", "eta2", "cluster_z", "senses"];
    main.append(el("p", { class: "panel not" }, DATA.curves ? "This unit has no card in this page, which holds only some of so many: its record is in the run's folder `cards`." : "This unit was measured but has no card: exemplars and explanations were made for some units of each site only (more with --cards)."),
      table(["what", "value"], known.map((k) => [term(k), number(unit[k])])));
    return;
  }
  const numbers = card.measurements.length ? el("div", {}, el("h3", {}, "Measured"), measurements(card.measurements)) : null;
  const picture = el("div", { class: "plot small", role: "img", "aria-label": "histogram of activations" });
  main.append(el("div", { class: "columns" }, numbers, card.histogram ? el("div", {}, el("h3", {}, "Activations"), picture) : null));
  histogram(picture, card.histogram);
  const parts = [];
  main.append(el("h3", {}, FOREIGN ? `Explanations, as ${FOREIGN} scored them` : "Explanations, and how they do on unseen documents"), card.explanations.length ? ladder(card) : el("p", { class: "soft" }, "There is none."), ...pictures(card, parts));
  const drawn = [...card.explanations].reverse().find((e) => e.automaton.length);
  if (drawn) main.append(el("h3", {}, `Automaton of ${drawn.explainer}`), automaton(drawn.automaton));
  if (card.exemplars.length) main.append(el("h3", {}, "Exemplars"), exemplars(card, state));
  if (card.promotions.length) main.append(el("h3", {}, "What it writes"), promotionsList(card));
  for (const part of parts) part.draw();
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

// Charts beside each other, and the kinds of context in words.
function pictures(card, parts) {
  const rate = rateChart(card), cover = coverageChart(card.coverage), half = [];
  for (const [found, heading, note] of [[rate, "Rate and distortion", "Each point is an explanation: what it predicts against what it costs."],
    [cover, "Several explanations together", cover && `${interval(card.coverage.effective)} effective explanations; one alone would read 1.`]]) {
    if (!found) continue;
    parts.push(found);
    half.push(el("section", {}, el("h3", {}, heading), el("p", { class: "soft" }, note), found.node));
  }
  const tellers = [...new Set(card.senses.map((s) => s.named_by))];
  return [half.length ? el("div", { class: "columns halves" }, half) : null, tellers.map((by) => [el("h3", {}, by ? `Responds to, in the words of ${by}` : "Responds to"), sensesList(card.senses.filter((s) => s.named_by === by))])].flat(2).filter(Boolean);
}

function exemplars(card, state) {
  const names = [...new Set(card.exemplars.flatMap((e) => Object.keys(e.simulated || {})))];
  const chosen = state.sim === undefined ? names[0] || "none" : state.sim;
  const values = card.exemplars.flatMap((e) => [...e.activations, ...((e.simulated || {})[chosen] || [])]);
  const scale = Math.max(0, ...card.exemplars.flatMap((e) => e.activations));
  const pick = el("select", { "aria-label": "simulated activations by", onchange: (event) => go({ sim: event.target.value }) },
    [...names, "none"].map((n) => el("option", { value: n, selected: n === chosen }, n)));
  const groups = [...new Set(card.exemplars.map((e) => e.stratum))].map((stratum) => {
    const found = card.exemplars.filter((e) => e.stratum === stratum);
    return found.length ? [el("h4", {}, stratum), found.map((e) => excerpt(e, scale, chosen))] : null;
  });
  const missing = values.some((v) => v === null) ? el("small", {}, el("span", { class: "token unknown" }, " hatched "), " no value") : null;
  return el("div", {}, el("div", { class: "controls" }, el("label", {}, "simulated by ", pick), el("span", { class: "legend" }, el("small", {}, "0"), el("i", { "aria-hidden": "true" }), el("small", {}, number(scale)), el("small", {}, "· real and simulated on one scale")), missing), groups);
}
