// Which features? One dictionary of the run: what it costs, what it is worth, what its latents are like.
const FAILURES = {
  fine: ["none of the faults below", "--good"], dead: ["active on no row", "--soft"], dense: ["active far too often", "--cause-magnitude"], spurious: ["stands for no feature", "--bad"],
  duplicate: ["another latent has its feature already", "--cause-relational"], absorbed: ["a special latent swallowed its parent's direction", "--accent"], merged: ["carries two features", "--cause-manifold"],
  split: ["shares a feature with other latents", "--cause-lookup"], partial: ["has less than half of its feature", "--cause-mixed"],
};
const ORDERS = {
  frequent: ["most frequent", (l) => -l.density], rare: ["rarest that fire", (l) => (l.density > 0 ? l.density : Infinity)], close: ["closest to another", (l) => -(l.cosine_0 ?? -2)],
  suspect: ["suspects of absorption", (l) => (l.suspect >= 0 ? l.suspect_awake : Infinity)], mismatch: ["encoder furthest from atom", (l) => -(l.encoder_mismatch ?? -1)],
};
const LISTED = 25;
const SIDES = { transcoder: (a) => `that read ${a.read.join(" and ")} and write ${a.written.join(" and ")}`, crosscoder: (a) => `that ${a.read.join(", ")} have in common` };

function howToDecode() {
  const sites = (typeof SITES === "undefined" ? [] : SITES).filter((s) => !s.endsWith(".sae")), audit = (DATA.facts.commands || []).at(-1) || "";
  const run = audit.startsWith("digon page ") ? audit.slice("digon page ".length) : "RUN";
  return el("div", { class: "panel not" }, el("p", {}, el("strong", {}, "No dictionary of this run was measured. "), "A sparse autoencoder takes the activations of a site apart into latents; to train one and measure it:"),
    el("p", {}, el("code", {}, `digon decode ${run} --site ${sites[Math.floor(sites.length / 2)] || "SITE"} --l0 8 16 32`)));
}

function dictionaryView(state, main) {
  const all = DATA.dictionaries || [], d = all.find((one) => one.about.name === state.sae) || all[0];
  main.append(el("h2", {}, "Which features? ", d ? el("span", { class: "soft" }, d.about.name) : null));
  if (!d) { main.append(howToDecode()); cardedLatents(main, null); return; }
  const charts = [densityChart(d), geometryChart(d), paretoChart(all, d, "fvu", "Reconstruction against sparsity", "fvu"), paretoChart(all, d, "f1", "Recovery against sparsity", "F1"), curvesChart(d)].filter(Boolean);
  const probes = probesPart(d), failures = failuresPart(d), latents = latentsPart(d);
  const worth = [el("h3", {}, "What is it worth?"), el("p", { class: "soft" }, "Null: what the same measure reads where nothing was learned. Every ? tells what is measured, in which range, and how it can mislead."),
    GROUPS.filter(([key]) => (d[key] || []).length).map(([key, heading]) => [el("h4", {}, heading), measuresTable(d[key])]), missing(d)];
  const body = el("div", {}, all.length > 1 ? chooser(all, d) : null, headline(d), sidesPart(d), el("div", { class: "columns halves" }, charts.map((c) => c.node)), worth, failures && failures.node, probes && probes.node, latents.node);
  // A latent opens where it stands, wherever on the page its link is.
  body.addEventListener("click", (event) => {
    const link = event.target.closest("a.latent");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    latents.open(link.dataset.latent);
  });
  main.append(body);
  cardedLatents(main, `${d.about.site}.sae`);
  for (const c of [...charts, failures, probes]) if (c) c.draw();
  if (state.latent !== undefined) requestAnimationFrame(() => document.getElementById("latents").scrollIntoView());
}

function chooser(all, d) {
  return el("div", { class: "controls" }, el("label", {}, "dictionary ", el("select", { "aria-label": "dictionary", onchange: (e) => { location.hash = hashOf({ sae: e.target.value, latent: null }); } },
    all.map((o) => el("option", { value: o.about.name, selected: o === d }, o.about.name)))), el("small", {}, `${all.length} dictionaries in this run`));
}

function headline(d) {
  const a = d.about, tile = (value, name, more) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, name), el("small", {}, more));
  const shown = [["l0", "active per row", (m) => `of ${a.width.toLocaleString("en-US")}${a.target_l0 ? `, asked for ${a.target_l0}` : ""}`], ["fvu_fresh", "fvu", () => "on fresh text"], ["fvu", "fvu", () => "on harvested rows"],
    ["ce_recovered_mean", "loss recovered", (m) => `random directions ${number(m.null)}`], ["f1", "F1", () => "of the world's features"], ["dead_share", "dead", () => "latents that never fire"]];
  const tiles = shown.map(([name, label, more]) => { const m = named(d, name); return m && m.value !== null ? tile(number(m.value), label, more(m)) : null; });
  return el("section", { class: "panel" }, el("p", { class: "lead" }, `${a.width.toLocaleString("en-US")} latents ${SIDES[a.mode] ? SIDES[a.mode](a) : `over ${a.d} units of ${a.site}`}: ${a.activation}${a.nested ? ", nested" : ""}${a.tied ? ", tied" : ""}, from ${a.rows.toLocaleString("en-US")} rows of ${a.documents.toLocaleString("en-US")} documents.`), el("div", { class: "tiles" }, tiles));
}

// Of a transcoder or crosscoder: what is left unexplained of every site, and whose the latents are.
function sidesPart(d) {
  const a = d.about;
  if (!SIDES[a.mode]) return null;
  const told = (name) => { const m = named(d, name); return m ? el("span", { class: "numeral" }, interval(m)) : "–"; }, crossed = a.mode === "crosscoder";
  const role = (site) => [a.read.includes(site) ? "read" : null, a.written.includes(site) ? "written" : null].filter(Boolean).join(" and ");
  const rows = [...new Set([...a.read, ...a.written])].map((site) => [site, role(site), a.written.includes(site) ? told(a.written.length > 1 ? `fvu_of ${site}` : "fvu") : "–", ...(crossed ? [told(`alone_in ${site}`)] : [])]);
  const shared = crossed && named(d, "shared");
  return el("section", { id: "sides" }, el("h3", {}, crossed ? "Whose are the latents?" : "From where to where?"), table(["site", "", "fvu [95 % interval]", ...(crossed ? ["latents of its own"] : [])], rows),
    shared ? el("p", { class: "soft" }, `Latents that no site has alone: ${interval(shared)}. A site has a latent alone if .9 of the atom's squared norm lies there, in units of the site's scale.`) : null);
}

// What was not measured, and what would have to be there.
function missing(d) {
  const gone = [];
  if (SIDES[d.about.mode]) gone.push("What the network loses, probes and truth: these are for what is read and written at one site.");
  else if (d.truth) gone.push("This is a world: no network reads the reconstruction, and there is no text to probe for.");
  else {
    if (!d.host) gone.push("The network was not there, so nothing says what it loses by the reconstruction: digon decode … --model NAME.");
    else if (!d.host.length) gone.push("The network predicts no tokens, so there is no loss to recover.");
    if (d.host && !(d.probes || []).length) gone.push("No concept of the text has enough rows for a probe.");
  }
  if (!d.stability) gone.push("One training says nothing of stability: digon decode … --seeds 3.");
  return gone.length ? el("p", { class: "soft" }, el("strong", {}, "Not measured. "), gone.join(" ")) : null;
}

function probesPart(d) {
  if (!(d.probes || []).length) return null;
  const counts = [...new Set(d.concepts.filter((r) => r.basis === "latents").map((r) => r.members))].sort((a, b) => a - b), slot = el("div", {});
  let now = null;
  const draw = () => { if (now) now.draw(); };
  const show = (k) => { now = probeChart(d, k); slot.replaceChildren(...(now ? [now.node] : [])); };
  show(counts[0]);
  const pick = el("select", { "aria-label": "members of a probe", onchange: (e) => { show(Number(e.target.value)); draw(); } }, counts.map((k) => el("option", { value: k }, k)));
  const mean = (basis, k) => d.probes.find((m) => m.name === `probe_${basis}_${k}`);
  const rows = Object.keys(PROBED).filter((basis) => mean(basis, counts[0])).map((basis) => [PROBED[basis], ...counts.map((k) => (mean(basis, k) ? el("span", { class: "numeral" }, interval(mean(basis, k))) : "–"))]);
  const dense = d.probes.find((m) => m.name === "probe_dense"), first = mean("latents", counts[0]);
  return { draw, node: el("section", {}, el("h3", {}, "What do single latents tell apart? ", first ? explain("definition of sparse probing", measureFacts(first), "?") : null),
    el("p", { class: "soft" }, `Concepts of the text, read from few latents. Mean over concepts${dense ? `; a linear probe of all ${d.about.d} neurons reads ${interval(dense)}` : ""}; guessing reads 0.5.`),
    table(["chosen from", ...counts.map((k) => `k = ${k}`)], rows), el("div", { class: "controls" }, el("label", {}, "k ", pick)), slot) };
}

function failuresPart(d) {
  if (!d.failures) return null;
  const labels = Object.keys(FAILURES).filter((label) => d.failures[label]), total = labels.reduce((sum, label) => sum + d.failures[label].count, 0);
  const bars = el("div", { class: "bars", role: "list" }, labels.map((label) => el("div", { class: "bar", role: "listitem", title: FAILURES[label][0] }, el("span", {}, label),
    el("span", { class: "track" }, el("i", { style: `width: ${(100 * d.failures[label].count / total).toFixed(1)}%; background: var(${FAILURES[label][1]})` })), el("span", { class: "numeral" }, d.failures[label].count))));
  const rows = labels.flatMap((label) => d.failures[label].examples.slice(0, label === "fine" ? 1 : 3).map((e) => [label, latentLink(e.latent), el("small", {}, e.evidence.slice(e.evidence.indexOf(":") + 1))]));
  return { draw: () => {}, node: el("section", {}, el("h3", {}, "What became of the latents?"), el("p", { class: "soft" }, `Against the features of the world, one label each: ${labels.map((label) => `${label}, ${FAILURES[label][0]}`).join("; ")}.`), bars,
    el("details", {}, el("summary", {}, "examples with their evidence"), table(["label", "latent", "evidence"], rows))) };
}

function latentLink(latent, shown) {
  return el("a", { href: hashOf({ view: "dictionary", latent }), class: "latent", "data-latent": latent }, shown || `#${latent}`);
}

// The list of latents, and the one that was chosen; choosing another redraws this part alone.
function latentsPart(d) {
  const columns = d.latents, place = new Map(columns.latent.map((latent, i) => [latent, i]));
  const row = (i) => Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[i]]));
  const rows = columns.latent.map((_, i) => row(i)), section = el("section", { id: "latents" });
  const show = (focus) => {
    const state = readState(), order = ORDERS[state.order] || (columns.label && FAILURES[state.order]) ? state.order : "frequent";
    section.replaceChildren(...[el("h3", {}, "Latents"), controls(order), one(place.get(Number(state.latent)), state.latent), list(order)].filter(Boolean));
    if (focus && section.querySelector(focus)) section.querySelector(focus).focus();
  };
  const change = (changes, focus) => { history.replaceState(null, "", hashOf({ view: "dictionary", ...changes })); show(focus); };
  const controls = (order) => {
    const options = [...Object.entries(ORDERS).map(([key, [name]]) => [key, name]), ...(columns.label ? Object.keys(FAILURES).filter((l) => columns.label.includes(l)).map((l) => [l, `label: ${l}`]) : [])];
    const number = el("input", { type: "number", min: 0, max: d.about.width - 1, value: readState().latent ?? "", placeholder: "number", "aria-label": "open a latent by its number", style: "width: 7rem", onchange: (e) => change({ latent: e.target.value }, "input") });
    return el("div", { class: "controls" }, el("label", {}, "order ", el("select", { "aria-label": "order of the latents", onchange: (e) => change({ order: e.target.value }, "select") }, options.map(([key, name]) => el("option", { value: key, selected: key === order }, name)))), el("label", {}, "latent ", number));
  };
  const one = (i, asked) => {
    if (asked === undefined) return null;
    if (i === undefined) return el("p", { class: "panel not" }, `There is no latent ${asked} here: numbers go from 0 to ${d.about.width - 1}${columns.latent.length < d.about.width ? ", of which the most frequent are in this page" : ""}.`);
    const l = rows[i], facts = [["density", number(l.density)], ["mean code when active", number(l.mean_code)], ["encoder mismatch", number(l.encoder_mismatch)]];
    (d.about.read || []).forEach((site, n) => { if (typeof l[`share_${n}`] === "number") facts.push([`share in ${site}`, number(l[`share_${n}`])]); });
    if (l.label) facts.push(["label", `${l.label}: ${FAILURES[l.label][0]}`], ["its feature", l.feature >= 0 ? `${l.feature}, cosine ${number(l.cosine)}, F1 ${number(l.f1)}` : "none"]);
    if (l.suspect >= 0) facts.push(["suspect of absorbing", [latentLink(l.suspect), `, which is active on ${(100 * l.suspect_awake).toFixed(0)} % of its rows`]]);
    const near = [0, 1, 2, 3, 4].filter((n) => l[`near_${n}`] !== undefined && l[`near_${n}`] !== null).map((n) => [l[`near_${n}`], l[`cosine_${n}`]]);
    const unit = typeof UNITS === "undefined" ? null : UNITS.find((u) => u.site === `${d.about.site}.sae` && u.index === l.latent && d.about.name === d.about.site);
    return el("div", { class: "panel", id: "latent" }, el("h4", { tabindex: -1 }, `Latent #${l.latent}`), el("dl", { class: "facts pairs" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("strong", {}, "Nearest latents"), table(["latent", "cosine", "density", ...(columns.label ? ["feature"] : [])], near.map(([latent, cosine]) => { const other = rows[place.get(latent)] || {}; return [latentLink(latent), number(cosine), number(other.density), ...(columns.label ? [other.feature >= 0 ? String(other.feature) : "–"] : [])]; })),
      unit ? el("p", {}, unitLink(unit.unit, unit.has_card ? "its card: exemplars, explanations, scores" : "its measurements as a unit")) : null);
  };
  const list = (order) => {
    const key = ORDERS[order] ? ORDERS[order][1] : (l) => (l.label === order ? -(l.f1 ?? 0) : Infinity);
    const found = rows.filter((l) => key(l) !== Infinity).sort((a, b) => key(a) - key(b) || a.latent - b.latent);
    const head = ["latent", "density", "mean code", "encoder mismatch", "nearest", "cosine", "suspect", ...(columns.label ? ["label"] : [])];
    return el("div", {}, el("p", { class: "soft" }, found.length > LISTED ? `The first ${LISTED} of ${found.length.toLocaleString("en-US")}.` : `${found.length} latents.`), table(head, found.slice(0, LISTED).map((l) => [latentLink(l.latent), number(l.density), number(l.mean_code), number(l.encoder_mismatch),
      l.near_0 === undefined || l.near_0 === null ? "–" : latentLink(l.near_0), number(l.cosine_0), l.suspect >= 0 ? latentLink(l.suspect) : "–", ...(columns.label ? [l.label] : [])])));
  };
  show();
  return { node: section, open: (latent) => change({ latent }, "#latent h4") };
}

// Latents of an audit that have cards, with what explains them.
function cardedLatents(main, site) {
  if (typeof UNITS === "undefined") return;
  const carded = UNITS.filter((u) => u.kind === "latent" && u.has_card && (!site || u.site === site)).sort((a, b) => b.density - a.density);
  if (!carded.length) return;
  main.append(el("h3", {}, "Latents with a card"), table(["latent", term("density"), term("eta2"), term("kurtosis"), term("rho", "best ρ"), "nearest latent", "explanation"], carded.map((u) => {
    const card = DATA.cards[u.unit], near = card.neighbors[0], text = card.explanations.length ? card.explanations[card.explanations.length - 1].text : "";
    return [unitLink(u.unit, `#${u.index}`), number(u.density), number(u.eta2), number(u.kurtosis), number(u.rho), near ? unitLink(near.unit, `${near.unit.slice(near.unit.indexOf("#"))} ${number(near.cosine)}`) : "–", el("small", {}, visible(text.slice(0, 160)))];
  })));
}
