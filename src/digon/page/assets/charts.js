// Pictures of a dictionary. Each function makes a labeled node and says how to draw it once it is on the page.
const SMALL = { margin: { l: 52, r: 12, t: 14, b: 44 } };

function chart(title, aria, draw, note, high) {
  const picture = el("div", { class: `plot ${high ? "" : "small"}`, role: "img", "aria-label": aria });
  return { node: el("section", {}, el("h3", {}, title), note ? el("p", { class: "soft" }, note) : null, picture), draw: () => draw(picture) };
}

function densityChart(d) {
  const h = d.densities, alive = h.counts.reduce((a, b) => a + b, 0);
  const middle = h.counts.map((_, i) => Math.sqrt(h.edges[i] * h.edges[i + 1])), width = h.counts.map((_, i) => h.edges[i + 1] - h.edges[i]);
  const aria = `densities of ${alive} latents that fire, from ${number(h.edges[0])} to 1; ${h.dead} are dead`;
  return chart("How often do latents fire?", aria, (picture) => plot(picture, [{ type: "bar", x: middle, y: h.counts, width, marker: { color: middle.map((v) => cssColor(v > 0.1 ? "--bad" : "--accent")) },
    customdata: h.counts.map((_, i) => `${number(h.edges[i])} to ${number(h.edges[i + 1])}`), hovertemplate: "density %{customdata}: %{y} latents<extra></extra>" }],
    { ...SMALL, bargap: 0.02, xaxis: { type: "log", title: { text: "density (share of rows)" }, range: [Math.log10(h.edges[0]), 0], dtick: 1, exponentformat: "power" }, yaxis: { title: { text: "latents" } },
      shapes: [{ type: "line", x0: 0.1, x1: 0.1, yref: "paper", y0: 0, y1: 1, line: { color: cssColor("--soft"), dash: "dot", width: 1 } }],
      annotations: [{ x: -1, y: 1, yref: "paper", yanchor: "top", xanchor: "left", text: "dense", showarrow: false, font: { color: cssColor("--soft") } }] }, false),
    `${h.dead.toLocaleString("en-US")} of ${(alive + h.dead).toLocaleString("en-US")} never fire and are not in the picture.`);
}

function geometryChart(d) {
  const g = d.geometry, at = g.nearest.map((_, i) => (g.edges[i] + g.edges[i + 1]) / 2);
  const first = at.findIndex((_, i) => g.nearest[i] > 0 || (g.chance.nearest[i] || 0) > 1e-4 || g.pairs[i] > 1e-4);
  const from = Math.max(-1, g.edges[Math.max(0, first - 1)]);
  const line = (name, y, color, dash) => ({ type: "scatter", mode: "lines", line: { shape: "hvh", color: cssColor(color), dash, width: 2 }, name, x: at, y, hovertemplate: `${name}: %{y:.3f} at cosine %{x:.2f}<extra></extra>` });
  const aria = `cosines of ${g.atoms} atoms in ${g.d} dimensions, beside random directions`;
  return chart("How crowded are the atoms?", aria, (picture) => plot(picture, [
    { ...line("nearest atom", g.nearest, "--accent", "solid"), fill: "tozeroy" }, line("random directions", g.chance.nearest, "--accent", "dot"), line("random, same shape", g.chance.shaped, "--accent", "dash"),
    line("all pairs", g.pairs, "--link", "solid"), line("random pairs", g.chance.pairs, "--link", "dot")],
    { ...SMALL, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { ...SMALL.margin, t: 44 }, xaxis: { title: { text: "cosine" }, range: [from, 1] }, yaxis: { title: { text: "share" }, rangemode: "tozero" } }, false),
    "Dotted: as many random directions; dashed: the same in the dimensions that the atoms use. What lies to the right of these is closer than chance: copies, splits, absorbed parents.");
}

function named(d, name) {
  for (const [key] of [...GROUPS, ["probes"]]) for (const m of d[key] || []) if (m.name === name) return m;
  return null;
}

function paretoChart(all, d, score, title, label) {
  const peers = all.filter((o) => o.about.site === d.about.site && named(o, score) && named(o, "l0"));
  if (!peers.includes(d)) return null;
  const families = new Map();
  for (const o of peers) {
    const key = `${o.about.activation}${o.about.nested ? " nested" : ""}, ${o.about.width} latents`;
    families.set(key, [...(families.get(key) || []), o]);
  }
  const colors = ["--accent", "--link", "--good", "--bad", "--soft"];
  const error = (list, name) => ({ type: "data", symmetric: false, thickness: 1, array: list.map((o) => Math.max(0, (named(o, name).high ?? named(o, name).value) - named(o, name).value)), arrayminus: list.map((o) => Math.max(0, named(o, name).value - (named(o, name).low ?? named(o, name).value))) });
  const aria = `${title}: ${peers.map((o) => `${o.about.name} ${number(named(o, "l0").value)}, ${number(named(o, score).value)}`).join("; ")}`;
  return chart(title, aria, (picture) => {
    const traces = [...families].map(([name, list], i) => {
      const sorted = [...list].sort((a, b) => named(a, "l0").value - named(b, "l0").value), color = cssColor(colors[i % colors.length]);
      return { type: "scatter", mode: sorted.length > 2 && new Set(sorted.map((o) => o.about.target_l0)).size === sorted.length ? "lines+markers" : "markers", name, x: sorted.map((o) => named(o, "l0").value), y: sorted.map((o) => named(o, score).value), customdata: sorted.map((o) => o.about.name), line: { color, width: 1 }, marker: { color, size: 8 },
        error_y: { ...error(sorted, score), color }, hovertemplate: "%{customdata}<br>l0 %{x:.3g}, " + label + " %{y:.3g}<extra></extra>" };
    });
    traces.push({ type: "scatter", mode: "markers", name: "this one", x: [named(d, "l0").value], y: [named(d, score).value], marker: { symbol: "circle-open", size: 18, color: cssColor("--ink"), line: { width: 2 } }, hoverinfo: "skip" });
    return plot(picture, traces, { ...SMALL, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { ...SMALL.margin, t: 44 }, xaxis: { title: { text: "active latents per row (l0)" }, rangemode: "tozero" }, yaxis: { title: { text: label }, rangemode: "tozero" } }, false)
      .then(() => picture.on("plotly_click", (event) => { if (event.points[0].customdata) location.hash = hashOf({ sae: event.points[0].customdata, latent: null }); }));
  }, peers.length < 2 ? "The only dictionary of this site so far: decode with several --l0 to see the trade-off." : "Ringed: this dictionary. Choose another one by clicking it.", true);
}

function curvesChart(d) {
  const c = d.curves, parts = [["fvu", "fvu"], ["l0", "l0"], ["dead_share", "dead"]].filter(([name]) => c[name]);
  if (!c.step || !parts.length) return null;
  return chart("How did training go?", `training curves over ${c.step.length} points: ${parts.map(([, name]) => name).join(", ")}`, (picture) => {
    const layout = { ...SMALL, showlegend: false, grid: { rows: parts.length, columns: 1, pattern: "independent" }, xaxis: { showticklabels: parts.length === 1 } };
    const traces = parts.map(([name, shown], i) => {
      const n = i ? String(i + 1) : "", gap = 0.07, high = 1 / parts.length;
      layout[`yaxis${n}`] = { title: { text: shown }, domain: [1 - (i + 1) * high + (i + 1 < parts.length ? gap : 0), 1 - i * high], automargin: true, gridcolor: cssColor("--line"), nticks: 3, tickformat: ".3~g", anchor: `x${n}`, rangemode: name === "dead_share" ? "tozero" : "normal" };
      layout[`xaxis${n}`] = { anchor: `y${n}`, showticklabels: i + 1 === parts.length, gridcolor: cssColor("--line"), matches: i ? "x" : undefined, title: i + 1 === parts.length ? { text: "step" } : undefined };
      return { type: "scatter", mode: "lines", x: c.step, y: c[name], xaxis: `x${n}`, yaxis: `y${n}`, line: { color: cssColor(["--accent", "--link", "--bad"][i]), width: 2 }, hovertemplate: `step %{x}: ${shown} %{y:.3g}<extra></extra>` };
    });
    return plot(picture, traces, layout, false);
  }, "Of training batches; dead: silent for a long time, by the clock of training.", true);
}

const BASES = { latents: ["latents", "--accent", "diamond"], directions: ["random directions, chosen", "--soft", "circle-open"], "random latents": ["latents at random", "--soft", "x-thin-open"], neurons: ["neurons", "--link", "square-open"], dense: ["all neurons (linear probe)", "--good", "line-ns-open"] };

function probeChart(d, members) {
  const rows = d.concepts.filter((r) => r.value !== null && (r.members === members || r.basis === "dense"));
  if (!rows.length) return null;
  const of = (basis, concept) => rows.find((r) => r.basis === basis && r.concept === concept);
  const concepts = [...new Set(rows.map((r) => r.concept))].sort((a, b) => ((of("latents", a) || {}).value || 0) - ((of("latents", b) || {}).value || 0));
  const picture = el("div", { class: "plot", style: `height: ${7 + 1.7 * concepts.length}rem`, role: "img", "aria-label": `balanced accuracy of probes of ${members} for ${concepts.join(", ")}` });
  const draw = () => plot(picture, Object.entries(BASES).map(([basis, [name, color, symbol]]) => {
    const list = concepts.map((c) => of(basis, c)).filter(Boolean), ink = cssColor(color);
    return { type: "scatter", mode: "markers", name, x: list.map((r) => r.value), y: list.map((r) => r.concept), marker: { symbol, size: basis === "latents" ? 11 : 10, color: ink, line: { width: 2, color: ink } },
      error_x: basis === "latents" ? { type: "data", symmetric: false, array: list.map((r) => (r.high === null ? 0 : r.high - r.value)), arrayminus: list.map((r) => (r.low === null ? 0 : r.value - r.low)), color: ink, thickness: 1.5 } : undefined,
      hovertemplate: `%{y}, ${name}: %{x:.3f}<extra></extra>` };
  }), { margin: { l: 10, r: 12, t: 10, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, xaxis: { title: { text: "balanced accuracy on unseen documents" }, range: [0.4, 1.02] }, yaxis: { automargin: true },
    shapes: [{ type: "line", x0: 0.5, x1: 0.5, yref: "paper", y0: 0, y1: 1, line: { color: cssColor("--soft"), dash: "dot", width: 1 } }] }, false);
  return { node: picture, draw };
}
