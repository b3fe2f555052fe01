// What pages do without a script, they do by links and forms. This adds keys and less typing.
"use strict";

// "/" goes to the search, unless something is being typed.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const find = document.getElementById("find");
  if (find) {
    event.preventDefault();
    find.focus();
    find.select();
  }
});

// A filter applies when it is chosen.
for (const form of document.querySelectorAll("form[data-submit]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// What cannot be undone is possible once the id is typed. The server compares it, too.
for (const field of document.querySelectorAll("input[data-confirm]")) {
  const button = field.form.querySelector("button");
  const compare = () => {
    const typed = field.value.trim();
    button.disabled = typed !== field.dataset.confirm && typed !== field.dataset.or;
  };
  field.addEventListener("input", compare);
  compare();
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

// A form is sent once, unless its answer is a file and leaves the page.
for (const form of document.querySelectorAll("form[method=post]:not([data-again])")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// Parts of a page that the server sends anew: only what has changed is replaced, and the focus stays where it was.
const replace = (html) => {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of fresh.body.querySelectorAll("section[id]")) {
    const old = document.getElementById(part.id);
    if (!old || old.innerHTML === part.innerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceChildren(...document.importNode(part, true).childNodes);
    for (const [name, value] of Object.entries(part.dataset)) old.dataset[name] = value;
    if (focused) [...old.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  }
};

// The overview listens while it is seen: a browser has few connections to one server.
const live = document.querySelector("[data-events]");
if (live) {
  const note = document.getElementById("live-note");
  let source = null;
  let over = false;
  const listen = () => {
    if (source || over || document.hidden) return;
    source = new EventSource(live.dataset.events);
    source.addEventListener("live", (event) => {
      replace(JSON.parse(event.data).html);
      note.textContent = "";
    });
    source.addEventListener("failed", (event) => {
      note.textContent = `The page could not be kept up to date: ${JSON.parse(event.data).why}`;
    });
    source.addEventListener("end", (event) => {
      over = true;
      source.close();
      if (JSON.parse(event.data).why === "session") location.reload();
      note.textContent = "The server has shut down. Load the page again when it is back.";
    });
    source.addEventListener("error", () => {
      note.textContent = "This page is not kept up to date at the moment.";
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    }
    listen();
  });
  listen();
}

// The progress of a migration is asked for every two seconds, until what can be done about it is another thing.
const asked = document.querySelector("[data-poll]");
if (asked) {
  const status = () => document.getElementById("run").dataset.status;
  const before = status();
  const ask = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(asked.dataset.poll, { redirect: "manual" });
        // The session has ended, or it leads elsewhere.
        if (answer.type === "opaqueredirect") return location.reload();
        if (answer.ok) replace(await answer.text());
      } catch {
        // The server is away for a moment: the next question tells.
      }
    }
    if (status() !== before) return location.reload();
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 2000);
}

// One box ticks all of the page.
for (const box of document.querySelectorAll("input[data-all]")) {
  box.hidden = false;
  box.addEventListener("change", () => {
    for (const each of box.form.querySelectorAll("input[type=checkbox]")) {
      if (each.name.startsWith(box.dataset.all)) each.checked = box.checked;
    }
  });
}

// What moves is asked for anew until it is over; then the page is, since its forms depend on it.
for (const part of document.querySelectorAll("[data-progress]")) {
  const look = async () => {
    if (document.hidden) return setTimeout(look, 1000);
    try {
      const answer = await fetch(part.dataset.progress, { credentials: "same-origin" });
      if (answer.redirected) return location.reload();
      if (answer.ok) {
        part.innerHTML = await answer.text();
        if (!part.querySelector("[data-running]")) return location.reload();
      }
    } catch {
      // The server is away for a moment; it is asked again.
    }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
}
