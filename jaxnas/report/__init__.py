"""What a run shows and leaves behind: progress, tables, drawings, the HTML report.

matplotlib and rich are imported by the functions that draw, not by importing this room.
"""

from jaxnas.report.html import Image as Image
from jaxnas.report.html import Section as Section
from jaxnas.report.html import write_report as write_report
from jaxnas.report.loading import load as load
from jaxnas.report.loading import load_scores as load_scores
from jaxnas.report.progress import Progress as Progress
from jaxnas.report.progress import format_duration as format_duration
from jaxnas.report.tables import markdown_table as markdown_table
from jaxnas.report.tables import mean_std as mean_std
from jaxnas.report.tables import text_table as text_table
