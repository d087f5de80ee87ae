// Before the first paint: the theme and language that were chosen here last, so that nothing flashes.
(function () {
  "use strict";
  var root = document.documentElement;
  var read = function (name) {
    try { return localStorage.getItem("atelier." + name); } catch { return null; }
  };
  var theme = read("theme");
  var language = read("language") || (/^ja\b/i.test(navigator.language || "") ? "ja" : "en");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.lang = language === "ja" ? "ja" : "en";
})();
