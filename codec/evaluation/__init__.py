"""Rate, distortion and time of the codec beside others, measured on real files (extra "eval").

    >>> found = codec.evaluation.evaluate(["a.png", "b.png"], against=["webp", "avif444"])
    >>> print(*found.answer()["needs"], sep="\\n")
    >>> found.save("results.json", "figures.csv", "report.html")

    run                 all of it in one call: evaluate(pictures) -> rows, means, BD-rates, conditions
    metrics             PSNR, PSNR-Y, MS-SSIM, SSIMULACRA2 of one decoded picture
    ms_ssim, ssimulacra2  the last two of them
    anchors             JPEG, WebP, AVIF, JPEG 2000, JPEG XL, x265, other models of ours, in the manner of codec.Codec
    zoo                 CompressAI's models, the same way
    rate_distortion     pictures x codecs x qualities -> rows, means, monotonicity, CSV and JSON
    journal             rows on disk as they come, so that a run can go on where it was stopped
    bench               time and throughput in turns, by stage, and beside what the machine can do
    stages              where our own time goes
    process             time and peak memory of fresh processes
    bd_rate             two curves -> one percentage, or one number of decibels
    published           curves of other codecs as their authors published them
    report, plot        results (JSON) and pictures -> one HTML page, or a plot
    words               results -> an answer in words
    compare             a picture and other versions of it -> figures, and an HTML page
    pages, assets       what those pages are made of

Nothing is imported here but on the first use of ``evaluate``: each module is asked for by name, and brings in only what
it needs.
"""

import typing

__all__ = ["evaluate"]

if typing.TYPE_CHECKING:
    from .run import evaluate
else:

    def __getattr__(name: str) -> object:
        if name != "evaluate":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .run import evaluate

        globals()[name] = evaluate
        return evaluate
