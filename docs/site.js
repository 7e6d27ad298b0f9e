// What scrolls sideways can be reached and scrolled by keys.
document$.subscribe(() => requestAnimationFrame(() => {
  for (const each of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset table.dataframe")) each.tabIndex = 0;
}));
