// What the numbers of a dictionary mean: title, definition, range, and how each can mislead.
const PROBED = { latents: "latents", directions: "random directions", random_latents: "latents at random", neurons: "neurons" };
const MEASURES = {
  fvu: ["fvu, harvested rows", "fraction of variance unexplained by the reconstruction, on the rows that the dictionary was trained on", "0 = exact; 1 = no better than the mean; above 1 = worse",
    "More latents, or more active ones, always lower it: compare at equal l0. A low value does not mean that features were found."],
  fvu_fresh: ["fvu, fresh text", "the same on contexts that were not harvested, about the mean of the harvest", "0 = exact; 1 = no better than the mean", "More latents, or more active ones, always lower it: compare at equal l0."],
  l0: ["l0", "mean number of active latents per row", "0 to the number of latents", "The price of a reconstruction, not a quality: read the other numbers at this one."],
  dead_share: ["dead latents", "share of latents that are active on no row", "0 to 1", "It shrinks with the number of rows looked at: a latent for something rare is no dead latent. Copies are never dead."],
  dense_share: ["dense latents", "share of latents that are active on more than a tenth of the rows", "0 to 1", "Some features are frequent. A dense latent is suspicious, not wrong."],
  twin_share: ["twins", "share of latents with another atom at a cosine of .9 or more: copies", "0 to 1", "It finds what the other numbers forgive: a dictionary of copies has few dead latents and probes well."],
  absorption_suspects: ["suspects of absorption", "share of latents whose atom carries that of a latent at least as frequent, beyond what random directions of equal second moment reach, while that latent is silent on most of their rows", "0 to 1",
    "A suspicion: on worlds of known truth, others than that of its thresholds, 119 of 160 were right and 119 of 290 absorbed latents were found; of a dictionary with fewer latents than features 8 of 14 and 8 of 81; after short training 1 of 10 was right. Features split into parts that exclude each other look alike; close copies are twins instead."],
  encoder_mismatch: ["encoder mismatch", "1 − cosine of a latent's encoder row and its atom: it listens for something else than it writes", "0 = the same direction; 1 = unrelated; up to 2",
    "Encoders differ from atoms wherever atoms overlap, absorbed or not. Tied weights would read 0 whatever they learned, so they have no value."],
  ce_clean: ["loss of the network", "loss of the untouched network on the next token", "0 and above, nats per token", "The scale for the rises below it."],
  ce_rise: ["rise of the loss", "by how much the loss rises when the network reads the reconstruction", "0 = nothing is lost; nats per token", "A site that the network hardly uses loses little whatever is put there."],
  ce_recovered_mean: ["loss recovered, against the mean", "(loss with the mean row − loss with the reconstruction) / (loss with the mean row − clean loss)", "1 = as clean; 0 = as the mean; below 0 = worse",
    "The identity reads 1, and more active latents read more: compare at equal l0 and with the null."],
  ce_recovered_zero: ["loss recovered, against zeros", "the same with zeros in the place of the mean row", "1 = as clean; 0 = as zeros; below 0 = worse", "Flatters: zeros are far from anything that the network has met, so nearly every reconstruction looks good."],
  kl: ["KL", "how far the network's predictions move: mean Kullback–Leibler divergence from the clean ones", "0 = nowhere; nats per token", "More active latents lower it: compare at equal l0."],
  kl_recovered: ["KL recovered", "1 − KL with the reconstruction / KL with the mean row", "1 = as clean; 0 = as the mean", "The identity reads 1: compare at equal l0."],
  stability: ["stability", "mean cosine of the one-to-one pairs of atoms between trainings that differ in their seed alone", "0 to 1", "Says that training is reproducible, not that features were found: trainings can agree on a wrong dictionary."],
  stability_close: ["stable atoms", "share of these pairs with a cosine of .9 or more", "0 to 1", "Says that training is reproducible, not that features were found."],
  f1: ["F1", "F1 of a feature with the one latent that it is matched with, mean over all features of the world; a feature without one scores 0", "0 to 1", "With fewer latents than features it cannot reach 1. Copies gain nothing."],
  precision: ["precision", "share of the matched latent's rows that have the feature, mean over features", "0 to 1", "A feature without a latent counts as 0."],
  recall: ["recall", "share of a feature's rows on which its latent is active, mean over features", "0 to 1", "A feature without a latent counts as 0."],
  f1_rare: ["F1, rare quarter", "F1 over the rarest quarter of the features", "0 to 1", "With fewer latents than features the rare ones are the first to go."],
  f1_weighted: ["F1, by frequency", "F1 weighted by how often features are active", "0 to 1", "Frequent features decide it."],
  mcc: ["MCC", "mean cosine of the one-to-one pairs of features and atoms", "0 to 1; random directions read what chance gives", "About directions alone, not about when a latent is active."],
  mmcs_features: ["MMCS", "mean over features of the largest cosine with any atom", "−1 to 1", "Several features may share an atom: it flatters small dictionaries."],
  coverage: ["coverage", "share of features whose matched atom has a cosine of .9 or more", "0 to 1", "About directions alone."],
  slope: ["shrinkage", "code over true strength on common rows, median over found features", "1 = no shrinkage", "Of features that were found only."],
  public_f1: ["F1 as published", "F1 of every latent with the feature of largest |cosine|, mean over latents; several may share one", "0 to 1", "Copies of one easy feature read 1. It stands here to be compared with published tables, not to be believed."],
  shared: ["shared latents", "share of latents that belong to no site alone", "0 to 1", "Two unrelated features that always come together share a latent as well."],
  l0_true: ["active features", "mean number of features of the world that are active per row", "0 and above", "A fact of the world, not of the dictionary."],
};
const PER_SITE = {
  fvu_of: ["fvu of", "fraction of variance of this site that the code of all sites leaves unexplained", "0 = exact; 1 = no better than the mean", "Sites compete for the same latents: compare with an autoencoder of this site at equal l0."],
  alone_in: ["latents of", "share of latents with at least .9 of the squared norm of their atom in this site, in units of its scale", "0 to 1", "A site that nothing else resembles has many. About atoms, not about when latents are active."],
};
const GROUPS = [["measured", "On the harvested rows"], ["host", "In the network"], ["stability", "Over seeds"], ["truth", "Against the truth"]];

function measureOf(name) {
  const probe = name.match(/^probe_(.+?)(?:_(\d+))?$/);
  const [kind, ...site] = name.split(" ");
  if (PER_SITE[kind] && site.length) return [`${PER_SITE[kind][0]} ${site.join(" ")}`, ...PER_SITE[kind].slice(1)];
  if (!probe) return MEASURES[name] || [name.replaceAll("_", " "), "", "", ""];
  const what = probe[1] === "dense" ? "linear probe of all neurons" : `${probe[2]} of ${PROBED[probe[1]] || probe[1]}`;
  return [`probe: ${what}`, "balanced accuracy of a logistic regression that reads a concept of the text, on documents that nothing was fitted on; mean over concepts", "½ = guessing; 1 = always right",
    "A wider dictionary has more latents to choose from: random directions, as many, show how much that alone gives. Copies add nothing."];
}

function measureFacts(m) {
  const [title, definition, range, caution] = measureOf(m.name);
  const row = (name, value) => (value === null || value === undefined || value === "" ? null : [el("dt", {}, name), el("dd", {}, value)]);
  return [el("strong", {}, title), el("dl", { class: "facts" }, row("what", definition), row("range", range), row("mind", caution), row("value", interval(m)),
    row("nothing to find", m.null === null ? null : number(m.null)), row("how", m.method), row("sample", m.n ? m.n.toLocaleString("en-US") : null), row("source", m.source))];
}

// The button stays with the last word of the name.
function measureName(m) {
  const words = measureOf(m.name)[0].split(" "), last = words.pop();
  return el("span", { class: "check" }, words.map((word) => `${word} `).join(""), el("span", { class: "together" }, last, " ", explain(`definition of ${measureOf(m.name)[0]}`, measureFacts(m), "?")));
}

function measuresTable(list) {
  return el("div", { class: "measures" }, table(["what", "value [95 % interval]", "null", "n"], list.map((m) => [measureName(m), el("span", { class: "numeral" }, interval(m)), el("span", { class: "numeral" }, number(m.null)), el("span", { class: "numeral" }, m.n ? m.n.toLocaleString("en-US") : "–")])));
}
