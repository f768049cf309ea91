// Cells of tables with a head learn the name of their column, for the cards on a phone.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".bd-article table").forEach((table) => {
    const heads = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    if (heads.length < 2) return;
    table.classList.add("cards");
    table.querySelectorAll("tbody tr").forEach((row) => {
      [...row.children].forEach((cell, i) => {
        if (i > 0 && cell.textContent.trim()) cell.dataset.label = heads[i];
        else if (i > 0) cell.textContent = "";
      });
    });
  });
});
