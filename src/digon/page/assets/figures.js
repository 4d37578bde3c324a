// From a figure's record, which knows no drawing library, to plotly.
const ROLES = { measured: { dash: "solid", color: "--accent" }, theory: { dash: "dash", color: "--link" }, published: { dash: "dot", color: "--good" }, guide: { dash: "dot", color: "--soft" } };
const ROOM = { left: 58, right: 18, bar: 70, top: 26, bottom: 52 }; // pixels around a panel

function diverging() {
  return [[0, "#1c5d99"], [0.5, cssColor("--panel")], [1, "#a8480a"]];
}

function roleColor(role, index) {
  const extra = ["--accent", "--link", "--good", "--bad", "--soft"];
  return cssColor(role === "measured" ? extra[index % extra.length] : ROLES[role].color);
}

function panelColumns(figure, frame, wide) {
  return Math.max(1, Math.min(wide ? figure.columns : 1, frame.panels.length));
}

function isSpatial(panel) {
  return panel.series.some((s) => s.z.length > 0);
}

// Ranges over all frames, so that a control moves the data and never the axes.
function spread(figure, place, which) {
  let low = Infinity, high = -Infinity;
  for (const frame of figure.frames) {
    const panel = frame.panels[place];
    if (!panel) continue;
    for (const s of panel.series) for (const v of [...s[which], ...(which === "y" ? [...s.low, ...s.high] : [])]) if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
    if (panel.series.some((s) => s.kind === "arrows" || s.kind === "bars")) { low = Math.min(low, 0); high = Math.max(high, 0); }
  }
  if (low > high) return null;
  const room = low === high ? Math.abs(low) * 0.1 || 1 : 0.06 * (high - low);
  return [low - room, high + room];
}

function axisOf(label, log, range) {
  const axis = { title: { text: label }, type: log ? "log" : "linear", gridcolor: cssColor("--line"), zerolinecolor: cssColor("--line"), automargin: false };
  if (range && !log) axis.range = range;
  return axis;
}

function arrowLine(series) {
  const along = (values) => values.flatMap((v) => [0, v, null]);
  return { x: along(series.x), y: along(series.y), z: along(series.z) };
}

function edgeLine(series) {
  const pairs = (values) => values.flatMap((v, i) => (i % 2 ? [v, null] : [v]));
  return { x: pairs(series.x), y: pairs(series.y), z: pairs(series.z) };
}

function tracesOf(panel, series, index, where, scale) {
  const color = roleColor(series.role, index), spatial = series.z.length > 0;
  const place = spatial ? { type: "scatter3d", scene: where.scene } : { type: "scatter", xaxis: where.x, yaxis: where.y };
  const marker = { size: spatial ? 4 : 7, color: series.color.length ? series.color : color, ...(series.color.length ? scale : {}) };
  const named = { name: series.name, legendgroup: series.name, showlegend: Boolean(series.name) && where.legend };
  if (series.kind === "bars") {
    return [{ type: "bar", xaxis: where.x, yaxis: where.y, x: series.x, y: series.y, marker: { color: marker.color, ...(series.color.length ? scale : {}) }, ...named }];
  }
  const lines = series.kind === "arrows" ? arrowLine(series) : series.kind === "edges" ? edgeLine(series) : null;
  const traces = [];
  if (lines) traces.push({ ...place, x: lines.x, y: lines.y, ...(spatial ? { z: lines.z } : {}), mode: "lines", line: { color, width: spatial ? 3 : 1.5 }, hoverinfo: "skip", showlegend: false });
  if (series.kind !== "edges") {
    const error = series.low.length ? { error_y: { type: "data", symmetric: false, array: series.high.map((v, i) => v - series.y[i]), arrayminus: series.low.map((v, i) => series.y[i] - v), color, thickness: 1 } } : {};
    traces.push({ ...place, x: series.x, y: series.y, ...(spatial ? { z: series.z } : {}), mode: series.kind === "line" ? "lines" : "markers",
      line: { color, dash: ROLES[series.role].dash, width: 2 }, marker, ...error, ...named });
  }
  return traces;
}

function drawFigure(node, figure, frame, wide) {
  const columns = panelColumns(figure, frame, wide), rows = Math.ceil(frame.panels.length / columns);
  const ink = cssColor("--ink"), line = cssColor("--line");
  const layout = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: ink, size: 12 }, margin: { l: 4, r: 4, t: 30, b: 4 }, modebar: { bgcolor: "transparent", color: cssColor("--soft"), activecolor: ink },
    annotations: [], legend: { orientation: "h", y: 0, yanchor: "top" }, height: rows * (wide ? 330 : 300) + 84, barmode: "overlay" };
  const traces = [], seen = new Set(), width = Math.max(300, node.clientWidth - 8), height = rows * (wide ? 330 : 300);
  frame.panels.forEach((panel, i) => {
    const column = i % columns, row = Math.floor(i / columns);
    const x = [column / columns + ROOM.left / width, (column + 1) / columns - (panel.color_label ? ROOM.bar : ROOM.right) / width];
    const y = [1 - (row + 1) / rows + ROOM.bottom / height, 1 - row / rows - ROOM.top / height];
    const n = i ? String(i + 1) : "", where = { x: `x${n}`, y: `y${n}`, scene: `scene${n}`, legend: true };
    const colors = panel.series.flatMap((s) => s.color).filter((v) => v !== null);
    const range = panel.color_range || (colors.length ? [Math.min(...colors), Math.max(...colors)] : [0, 1]);
    const bar = { len: (y[1] - y[0]) * 0.8, x: x[1], xanchor: "left", y: (y[0] + y[1]) / 2, thickness: 8, title: { text: panel.color_label, side: "right" } };
    const scale = { colorscale: "Viridis", cmin: range[0], cmax: range[1], showscale: Boolean(panel.color_label), colorbar: bar };
    if (panel.grid) {
      const flat = panel.grid.values.flat().filter((v) => v !== null), top = Math.max(...flat.map(Math.abs), 1e-12);
      const limits = panel.color_range || (panel.grid.diverging ? [-top, top] : [Math.min(...flat), Math.max(...flat)]);
      traces.push({ type: "heatmap", xaxis: where.x, yaxis: where.y, x: panel.grid.x, y: panel.grid.y, z: panel.grid.values, zmin: limits[0], zmax: limits[1],
        colorscale: panel.grid.diverging ? diverging() : "Viridis", showscale: Boolean(panel.color_label), colorbar: bar });
    }
    panel.series.forEach((series, k) => {
      where.legend = !seen.has(series.name);
      seen.add(series.name);
      traces.push(...tracesOf(panel, series, k, where, scale));
    });
    if (isSpatial(panel)) {
      const side = (label, which) => ({ title: { text: label }, range: spread(figure, i, which), gridcolor: line, color: ink, backgroundcolor: "transparent" });
      layout[`scene${n}`] = { domain: { x, y }, xaxis: side(panel.x_label, "x"), yaxis: side(panel.y_label, "y"), zaxis: side("", "z"), aspectmode: "cube" };
    } else {
      layout[`xaxis${n}`] = { ...axisOf(panel.x_label, panel.x_log, panel.grid ? null : spread(figure, i, "x")), domain: x, anchor: where.y };
      layout[`yaxis${n}`] = { ...axisOf(panel.y_label, panel.y_log, panel.grid ? null : spread(figure, i, "y")), domain: y, anchor: where.x };
      if (panel.grid && panel.grid.diverging && !panel.y_log) { // a matrix is read from the top
        Object.assign(layout[`yaxis${n}`], { autorange: "reversed", tick0: 0, dtick: Math.ceil(panel.grid.y.length / 8) });
        Object.assign(layout[`xaxis${n}`], { tick0: 0, dtick: Math.ceil(panel.grid.x.length / 8) });
      }
      if (panel.square) { layout[`yaxis${n}`].scaleanchor = where.x; layout[`yaxis${n}`].constrain = "domain"; layout[`xaxis${n}`].constrain = "domain"; }
    }
    layout.annotations.push({ text: panel.title, showarrow: false, x: (x[0] + x[1]) / 2, y: y[1], xref: "paper", yref: "paper", xanchor: "center", yanchor: "bottom", font: { size: 13 } });
  });
  return Plotly.react(node, traces, layout, { responsive: true, displaylogo: false });
}
