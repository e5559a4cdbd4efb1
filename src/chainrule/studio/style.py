"""How the pages look. Colours are of at least 4.5 to 1 on their grounds, in both schemes."""

STYLE = """
.gradio-container { max-width: 90rem !important; }
.gradio-container h1 { margin: 0.2rem 0; font-size: 1.5rem; }
.gradio-container .name { font-size: 1.1rem; margin: 0.2rem 0; overflow-wrap: anywhere; }
.gradio-container h3 { font-size: 1rem; margin: 0.8rem 0 0.3rem; }
.status { font-weight: 600; }
.status.failed { color: #a40000; }
.dark .status.failed { color: #ff9d9d; }
progress, meter { width: 100%; height: 0.8rem; accent-color: #1f5fa8; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #8883; }
figcaption { font-size: 0.9rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 0.6rem; }
.pair figure { max-width: 20rem; }
.pair img { image-rendering: auto; }
.way { display: flex; gap: 0.4rem; overflow-x: auto; padding-bottom: 0.3rem; }
.pair .wide { grid-column: 1 / -1; max-width: none; }
.way figure { flex: 0 0 6rem; }
.way .wide { flex-basis: 15rem; }
.gauges { display: grid; grid-template-columns: 1fr 1fr; gap: 0.2rem 0.8rem; font-size: 0.9rem; }
.gauges p { grid-column: 1 / -1; margin: 0; }
.curves { display: grid; gap: 0.6rem;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.curve svg { width: 100%; height: 5.5rem; background: #8881; border: 1px solid #8886; }
.curve polyline { stroke: #1f5fa8; vector-effect: non-scaling-stroke; }
.curve circle { fill: #1f5fa8; }
.dark .curve polyline { stroke: #8ebcf2; }
.dark .curve circle { fill: #8ebcf2; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 0.6rem;
  list-style: none; padding: 0; margin: 0; }
.gallery li { margin: 0; }
.gallery button { width: 100%; height: 100%; padding: 0.3rem; text-align: left; font: inherit;
  font-size: 0.85rem; color: inherit; background: transparent; border: 2px solid #8886;
  border-radius: 0.4rem; cursor: pointer; }
.gallery button[aria-pressed="true"] { border-color: #1f5fa8; background: #1f5fa822; }
.dark .gallery button[aria-pressed="true"] { border-color: #8ebcf2; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #8882; }
.gallery strong { display: block; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
  gap: 0.6rem; }
.compare > div { position: relative; max-width: 40rem; }
.compare img { display: block; width: 100%; image-rendering: auto; }
.compare img + img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: fill;
  clip-path: inset(0 0 0 var(--at)); }
.compare label { display: block; max-width: 40rem; }
.compare input { width: 100%; min-height: 2rem; }
.compare input:focus-visible { outline-offset: -1px !important; }
.gradio-container .links { list-style: none; padding: 0; margin: 0.4rem 0; }
.gradio-container figcaption a, .gradio-container .links a { padding: 0; margin: 0; }
.scroll { overflow-x: auto; }
.scroll table { border-collapse: collapse; font-size: 0.9rem; }
.scroll th, .scroll td { padding: 0.25rem 0.6rem; border: 1px solid #8886; text-align: left; }
.gradio-container a { color: #174a84; text-decoration: underline; }
.dark .gradio-container a, .dark a { color: #a9ccf5; }
:focus-visible { outline: 3px solid #b34700 !important; outline-offset: 2px; }
.dark :focus-visible { outline-color: #ffb27a !important; }
@media (max-width: 600px) {
  .gradio-container { padding: 0.4rem !important; }
  .gallery { grid-template-columns: 1fr 1fr; }
}
"""
