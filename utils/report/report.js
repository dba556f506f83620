// Sort a table by the column whose heading is clicked (or pressed with Enter or Space). A second click reverses the order.
'use strict';
for (const button of document.querySelectorAll('table.sortable th button')) {
  button.addEventListener('click', () => {
    const head = button.closest('th'), table = head.closest('table'), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const order = head.getAttribute('aria-sort') === 'ascending' ? 'descending' : 'ascending';
    const sign = order === 'ascending' ? 1 : -1;
    const key = row => {
      const cell = row.children[column], number = Number.parseFloat(cell.dataset.value);
      return Number.isNaN(number) ? cell.textContent : number;
    };
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (typeof x === 'number' && typeof y === 'number') return sign * (x - y);
      if (typeof x !== typeof y) return typeof x === 'number' ? -1 : 1;  // undefined values stay at the end
      return sign * x.localeCompare(y, 'en', {numeric: true});
    };
    for (const other of head.parentNode.children) other.setAttribute('aria-sort', other === head ? order : 'none');
    body.append(...[...body.rows].sort(compare));
  });
}

// A box that is wider than the window gets into the tab order, so that the keyboard can scroll it.
const watcher = new ResizeObserver(entries => {
  for (const {target} of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0; else target.removeAttribute('tabindex');
  }
});
for (const box of document.querySelectorAll('.scroll')) watcher.observe(box);
