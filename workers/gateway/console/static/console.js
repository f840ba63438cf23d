// What the console's pages do besides being read: times in the viewer's zone, themes, fragments that move, and forms.
"use strict";

(() => {
  const THEMES = ["system", "light", "dark"];
  const RETRY_MS = 2000;
  const VALIDATE_MS = 250;

  // Times -----------------------------------------------------------------------------------------------------------

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  const older = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const HOUR_MS = 3_600_000;

  function ago(at, now) {
    const seconds = Math.round((now - at) / 1000);
    if (seconds < 0 || now - at >= HOUR_MS) return "";
    return seconds < 60 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ago`;
  }

  function describe(at, now) {
    if (now - at < HOUR_MS && at <= now) return ago(at, now);
    if (Math.abs(now - at) < 12 * HOUR_MS) return clock.format(at);
    return at.getFullYear() === now.getFullYear() ? day.format(at) : older.format(at);
  }

  function showTimes(root) {
    const now = new Date();
    for (const element of root.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const text = describe(at, now);
      if (element.textContent !== text) element.textContent = text;
      element.title = `${exact.format(at)}\n${element.dateTime}`;
    }
  }

  // Themes ----------------------------------------------------------------------------------------------------------

  function showTheme() {
    const theme = document.documentElement.dataset.theme || "system";
    for (const name of document.querySelectorAll("[data-theme-name]")) name.textContent = theme;
  }

  function nextTheme() {
    const root = document.documentElement;
    const theme = THEMES[(THEMES.indexOf(root.dataset.theme || "system") + 1) % THEMES.length];
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // Storage is off: the choice holds for this page.
    }
    showTheme();
    document.dispatchEvent(new Event("themechange"));
  }

  // Fragments that move ---------------------------------------------------------------------------------------------

  function showProblem(text) {
    const banner = document.querySelector("[data-live-problem]");
    if (!banner) return;
    banner.hidden = !text;
    banner.textContent = text ? `Not up to date. ${text} It goes on by itself.` : "";
  }

  function follow(element) {
    const source = new EventSource(element.dataset.live);
    source.addEventListener("fragment", (event) => {
      showProblem("");
      const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
      element.innerHTML = event.data; // rendered and escaped by the server, like the page itself
      enhance(element);
      if (focused) document.getElementById(focused)?.focus();
    });
    source.addEventListener("problem", (event) => showProblem(event.data));
    const close = () => source.close();
    source.onerror = () => {
      showProblem("The gateway or its Redis can't be reached.");
      if (source.readyState !== EventSource.CLOSED) return;
      // A browser connects again by itself, but not once it has got something else, such as that Redis is away.
      removeEventListener("pagehide", close);
      setTimeout(() => follow(element), 3_000);
    };
    addEventListener("pagehide", close);
  }

  // What takes longer than a page may comes once the page is there.
  async function load(element) {
    const answer = await fetch(element.dataset.load);
    if (!answer.ok) return; // the link in it shows what is wrong
    element.innerHTML = await answer.text(); // rendered and escaped by the server, like the page itself
    enhance(element);
  }

  async function retry() {
    try {
      const answer = await fetch(location.href, { method: "HEAD", cache: "no-store" });
      if (answer.status !== 503) location.reload();
    } catch {
      // The gateway itself is away; it is tried again.
    }
  }

  // Forms -----------------------------------------------------------------------------------------------------------

  function confirmByName(input) {
    const button = input.form.querySelector("button[type=submit]");
    const check = () => {
      button.disabled = input.value.trim() !== input.dataset.confirm;
    };
    input.addEventListener("input", check);
    check();
  }

  function validate(form) {
    const report = form.querySelector("[data-validation]");
    let timer = 0;
    let running;
    async function send() {
      running?.abort();
      running = new AbortController();
      try {
        const body = new URLSearchParams(new FormData(form));
        const answer = await fetch(form.dataset.validate, { method: "POST", body, signal: running.signal });
        if (!answer.ok) return;
        report.innerHTML = await answer.text(); // rendered and escaped by the server, like the page itself
        const isInvalid = report.querySelector("[data-invalid]") !== null;
        for (const button of form.querySelectorAll("[data-needs-valid]")) button.disabled = isInvalid;
      } catch (error) {
        if (error.name !== "AbortError") throw error;
      }
    }
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(send, VALIDATE_MS);
    });
    send();
  }

  function takeTokenFromLink(form) {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    if (!token) return;
    history.replaceState(null, "", location.pathname + location.search);
    form.elements.token.value = token;
    form.requestSubmit();
  }

  // All of it -------------------------------------------------------------------------------------------------------

  function enhance(root) {
    showTimes(root);
    root.querySelectorAll("[data-confirm]").forEach(confirmByName);
    root.querySelectorAll("[data-validate]").forEach(validate);
    root.querySelectorAll("select[data-submit]").forEach((select) => {
      select.addEventListener("change", () => select.form.requestSubmit());
    });
    document.dispatchEvent(new CustomEvent("enhance", { detail: root }));
  }

  document.addEventListener("DOMContentLoaded", () => {
    enhance(document);
    showTheme();
    // On a phone the menu scrolls: the page that is shown is in view.
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    document.querySelectorAll("[data-live]").forEach(follow);
    document.querySelectorAll("[data-load]").forEach(load);
    document.querySelectorAll("[data-theme-toggle]").forEach((button) => button.addEventListener("click", nextTheme));
    document.querySelectorAll("[data-sign-in]").forEach(takeTokenFromLink);
    document.querySelectorAll("[data-back]").forEach((link) =>
      link.addEventListener("click", (event) => {
        if (history.length < 2) return;
        event.preventDefault();
        history.back();
      }),
    );
    if (document.body.hasAttribute("data-retry")) setInterval(retry, RETRY_MS);
    // The notice of what was done belongs to this visit, not to the link.
    if (document.querySelector("[data-notice]")) {
      const url = new URL(location.href);
      url.searchParams.delete("done");
      history.replaceState(null, "", url);
    }
    setInterval(() => showTimes(document), 10_000);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const search = document.querySelector("[data-search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
    search.select();
  });
})();
