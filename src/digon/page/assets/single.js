// The page of one diagnosis: its views, and the run.
const DATA = JSON.parse(document.getElementById("data").textContent);
const VIEWS = { checks: ["Diagnosis", checksView], run: ["Run", factsView] };
