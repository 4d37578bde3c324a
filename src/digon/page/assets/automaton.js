// The automaton of an explanation, drawn so that text reads from left to right: matching begins at the last token, on the right.
const MOST_ARCS = 48;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Arcs between the same two states as one, the strongest first; what does not fit is counted.
function joinedArcs(arcs) {
  const pairs = new Map();
  for (const arc of arcs) {
    const key = `${arc.start}>${arc.end}`, one = pairs.get(key) || { start: arc.start, end: arc.end, labels: [], value: null };
    one.labels.push(arc.label);
    if (arc.value !== null && (one.value === null || Math.abs(arc.value) > Math.abs(one.value))) one.value = arc.value;
    pairs.set(key, one);
  }
  return [...pairs.values()];
}

function automaton(arcs) {
  if (!arcs.length) return null;
  const all = joinedArcs(arcs), ends = new Set(all.map((a) => a.end)), root = (all.find((a) => !ends.has(a.start)) || all[0]).start;
  const strength = new Map(), from = new Map();
  for (const a of all) from.set(a.start, [...(from.get(a.start) || []), a]);
  const weigh = (state, seen) => { // the strongest value on any way from here
    if (strength.has(state) || seen.has(state)) return strength.get(state) || 0;
    const values = (from.get(state) || []).map((a) => Math.max(Math.abs(a.value ?? 0), a.end === state ? 0 : weigh(a.end, new Set([...seen, state]))));
    strength.set(state, Math.max(0, ...values));
    return strength.get(state);
  };
  weigh(root, new Set());
  const weight = (a) => Math.max(Math.abs(a.value ?? 0), strength.get(a.end) || 0), place = new Map([[root, { depth: 0, y: 0 }]]), tree = [], loops = [];
  let rows = 0;
  const lay = (state, depth) => { // depth first, strongest arcs first: a leaf takes a row, a parent the middle of its children
    const own = [];
    for (const a of [...(from.get(state) || [])].sort((x, y) => weight(y) - weight(x))) {
      if (a.end === state || place.has(a.end)) { loops.push(a); continue; }
      if (tree.length >= MOST_ARCS) continue;
      tree.push(a);
      place.set(a.end, { depth: depth + 1, y: 0 });
      own.push(lay(a.end, depth + 1));
    }
    const y = own.length ? (own[0] + own[own.length - 1]) / 2 : rows++;
    place.get(state).y = y;
    return y;
  };
  lay(root, 0);
  const deepest = Math.max(...[...place.values()].map((p) => p.depth)), step = 170, row = 30, width = deepest * step + 150, height = rows * row + 26;
  const x = (state) => width - 74 - place.get(state).depth * step, y = (state) => place.get(state).y * row + 22;
  const most = Math.max(...all.map((a) => Math.abs(a.value ?? 0)), 1e-12), drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `automaton with ${all.length} steps` });
  const label = (labels) => { const words = labels.slice(0, 3).map((l) => visible(l).replaceAll("\n", "")); const text = words.join(" | ") + (labels.length > 3 ? ` +${labels.length - 3}` : ""); return text.length > 24 ? `${text.slice(0, 23)}…` : text; };
  for (const a of [...tree, ...loops.filter((l) => place.has(l.end) && place.has(l.start))]) {
    const x0 = x(a.start), y0 = y(a.start), x1 = x(a.end), y1 = y(a.end), self = a.start === a.end;
    const path = self ? `M${x0 - 4},${y0 - 6} c-18,-22 26,-22 8,0` : x1 < x0 ? `M${x0 - 6},${y0} C${x0 - 50},${y0} ${x0 - 40},${y1} ${x0 - 66},${y1} L${x1 + 6},${y1}` : `M${x0},${y0 + 6} Q${(x0 + x1) / 2},${Math.max(y0, y1) + 26} ${x1},${y1 + 6}`;
    const any = a.labels.length === 1 && a.labels[0] === "any", words = svg("text", { x: self ? x0 + 8 : x1 < x0 ? (x0 - 66 + x1 + 8) / 2 : (x0 + x1) / 2, y: self ? y0 - 12 : x1 < x0 ? y1 - 5 : Math.max(y0, y1) + 24, "text-anchor": self ? "start" : "middle", class: any ? "any" : "word" }, label(a.labels));
    words.append(svg("title", {}, `${a.labels.map((l) => JSON.stringify(l)).join(" or ")}${a.value === null ? "" : `: ${number(a.value)}`}`));
    drawn.append(svg("path", { d: path, class: "arc" }), words);
  }
  for (const [state, p] of place) {
    const ending = all.filter((a) => a.end === state && a.value !== null).map((a) => a.value), value = ending.length ? ending.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) : null;
    drawn.append(svg("circle", { cx: x(state), cy: y(state), r: state === root ? 7 : 6, class: state === root ? "root" : value === null ? "state" : "end", style: value === null ? null : `fill: color-mix(in srgb, rgb(var(--real)) ${Math.round(15 + 85 * Math.abs(value) / most)}%, var(--panel))` }));
    if (value !== null) drawn.append(svg("text", { x: x(state) - 10, y: y(state) + 4, "text-anchor": "end", class: "value" }, number(value)));
    if (state === root) drawn.append(svg("text", { x: x(state) + 12, y: y(state) + 4, class: "any" }, "fires here"));
    void p;
  }
  const left = all.length - tree.length - loops.length;
  return el("div", {}, el("div", { class: "scroll automaton" }, drawn), el("p", { class: "soft" }, `Read from the right, backward from the token on which the unit fires; a number is the activation where a match may end${left > 0 ? `. The strongest ${tree.length} of ${all.length} steps are drawn` : ""}.`));
}
