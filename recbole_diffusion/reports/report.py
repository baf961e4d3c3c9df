"""The files of a comparison: Markdown and CSV per data set, LaTeX per data set, and one HTML page of everything."""

from pathlib import Path

from recbole_diffusion.reports.html import format_html
from recbole_diffusion.reports.latex import format_latex
from recbole_diffusion.reports.study import Study, group_by
from recbole_diffusion.reports.tables import write_tables, write_text


def write_reports(results, out_dir, study, everything=False):
    """Write the files of a comparison.

    Args:
        results (list[dict]): see :func:`recbole_diffusion.reports.tables.write_tables`.
        out_dir (str | Path): folder.
        study (Study | str): what the results are about, or only its command.
        everything (bool): LaTeX and HTML too; without it only what is wanted after every run.

    Returns:
        dict[str, Path]: data set -> its Markdown file.
    """
    study = Study(study) if isinstance(study, str) else study
    paths = write_tables(results, out_dir, study)
    if everything:
        for dataset, cells in group_by(results, "dataset").items():
            write_text(Path(out_dir) / f"{study.stem(dataset)}.tex", format_latex(dataset, cells, study))
        write_text(Path(out_dir) / study.page, format_html(results, study))
    return paths
