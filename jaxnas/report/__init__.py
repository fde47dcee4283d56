"""What a run shows and leaves behind: progress, tables, drawings, the HTML report.

matplotlib and rich are imported by the functions that draw, not by importing this room.
"""

from .cell_drawing import draw_cell as draw_cell
from .genotype_drawing import draw_genotype_cell as draw_genotype_cell
from .html import Image as Image
from .html import Section as Section
from .html import write_report as write_report
from .progress import Progress as Progress
from .progress import format_duration as format_duration
from .tables import markdown_table as markdown_table
from .tables import mean_std as mean_std
from .tables import text_table as text_table
