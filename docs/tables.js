// Tables that scroll can be reached by the keyboard.
const reach = () => {
  for (const around of document.querySelectorAll(".md-typeset__scrollwrap")) {
    const scrolls = around.scrollWidth > around.clientWidth;
    around.toggleAttribute("tabindex", scrolls);
    if (scrolls) {
      around.tabIndex = 0;
    }
  }
};
addEventListener("load", reach);
addEventListener("resize", reach);
