// The URL's hash as an object, and back: every view can be shared.
function readState() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function hashOf(changes) {
  const next = { ...readState(), ...changes };
  for (const key of Object.keys(next)) if (next[key] === null || next[key] === undefined || next[key] === "") delete next[key];
  return "#" + new URLSearchParams(next).toString();
}
