// What scrolls sideways can be reached and scrolled by keys.
document$.subscribe(() => requestAnimationFrame(() => {
  for (const each of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset table.dataframe")) each.tabIndex = 0;
}));

// In a search a minus excludes what follows, and options of the command are written with two: `--hop_s` is searched as `hop_s`.
document.addEventListener("input", event => {
  if (event.target.matches(".md-search__input")) event.target.value = event.target.value.replace(/(^|\s)-+/g, "$1");
}, true);
