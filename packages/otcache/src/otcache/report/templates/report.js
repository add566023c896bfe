"use strict";
(() => {
  const wall = document.getElementById("wall");
  const said = document.getElementById("said");
  const cards = Array.from(wall.querySelectorAll(".card"), (card) => ({
    card,
    ranks: JSON.parse(card.dataset.ranks),
    tiles: Array.from(card.querySelectorAll(".tile[data-budget]")),
  }));
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const samples = said.textContent.split(" samples")[0];

  function show() {
    const budget = chosen("budget");
    const methods = new Set(
      Array.from(document.querySelectorAll('input[name="method"]:checked'), (box) => box.value)
    );
    wall.classList.toggle("difference", chosen("view") === "difference");
    cards.sort((a, b) => a.ranks[budget] - b.ranks[budget]);
    for (const { card, tiles } of cards) {
      for (const tile of tiles) {
        tile.hidden = tile.dataset.budget !== budget || !methods.has(tile.dataset.method);
      }
      wall.append(card);
    }
    said.textContent = `${samples} samples, sorted by otcache's RMSE at B = ${budget}.`;
  }

  document.querySelector("#pictures .controls").addEventListener("change", show);
  show();
})();
