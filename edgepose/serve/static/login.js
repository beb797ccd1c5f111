// Asks for the token; the server answers with a cookie that this script cannot read.
const error = document.getElementById("error");

function fail(message) {
  error.textContent = message;
  error.hidden = false;
}

document.getElementById("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.getElementById("token").value.trim();
  try {
    const reply = await fetch("/", { headers: { Authorization: `Bearer ${token}` } });
    if (reply.ok) location.replace("/");
    else fail("this is not the token; it is the one that the server was started with");
  } catch {
    fail("the server does not answer; check that it runs");
  }
});
if (new URLSearchParams(location.search).has("token")) {
  history.replaceState(null, "", location.pathname);
  fail("the token in the address is not that of this server");
}
