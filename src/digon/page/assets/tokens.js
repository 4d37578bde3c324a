// Excerpts: tokens colored by activation, real above simulated, both on one scale of one color.
function visible(token) {
  return token.replaceAll("\r", "␍").replaceAll("\n", "⏎\n").replaceAll("\t", "⇥ ");
}

function tokenLine(label, tokens, values, scale) {
  const spans = tokens.map((token, i) => {
    const strength = scale > 0 && values[i] > 0 ? Math.min(values[i] / scale, 1) : 0;
    return el("span", {
      class: values[i] === null || values[i] === undefined ? "token unknown" : "token", title: `${JSON.stringify(token)}: ${number(values[i])}`,
      style: strength > 0.03 ? `background: rgba(var(--real), ${(0.12 + 0.75 * strength).toFixed(2)})` : null,
    }, visible(token));
  });
  return el("div", { class: "line" }, el("span", { class: "label" }, label), spans);
}

function excerpt(record, scale, explainer) {
  const place = record.start < 0 ? "" : ` from token ${record.start}`; // other tools do not tell it
  const lines = [tokenLine(`real · document ${record.document.slice(0, 8)}${place}${FOREIGN ? "" : ` · ${record.split}`}`, record.tokens, record.activations, scale)];
  const simulated = record.simulated && record.simulated[explainer];
  if (simulated) lines.push(tokenLine(`simulated by ${explainer}`, record.tokens, simulated, scale));
  return el("div", { class: lines.length > 1 ? "excerpt both" : "excerpt" }, lines);
}
