// Dark or light: as the system has it, or as was chosen here before. Runs before the first paint.
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches);

  let chosen = null;
  try {
    chosen = localStorage.getItem('echoic-theme');
  } catch {
    // storage is switched off: the system's choice holds
  }
  if (chosen === 'dark' || chosen === 'light') root.dataset.theme = chosen;

  function tell() {
    const button = document.getElementById('theme');
    if (button) button.setAttribute('aria-pressed', String(isDark()));
    dispatchEvent(new Event('echoic-theme'));
  }

  function change() {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    try {
      localStorage.setItem('echoic-theme', root.dataset.theme);
    } catch {
      // it holds until the page is left
    }
    tell();
  }

  dark.addEventListener('change', tell);
  document.addEventListener('DOMContentLoaded', () => {
    document.getElementById('theme').addEventListener('click', change);
    tell();
  });
})();
