// Runs before the first paint, so that a chosen theme does not flash the other one.
(function () {
  "use strict";
  document.documentElement.classList.add("js");
  try {
    var chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch (error) {
    // Storage may be closed to local files; the system's theme holds then.
  }
})();
