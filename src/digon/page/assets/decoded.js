// The page of dictionaries alone: what `digon decode` made of a folder of shards.
const DATA = JSON.parse(document.getElementById("data").textContent);
const VIEWS = { dictionary: ["Dictionary", dictionaryView], run: ["Run", factsView] };
