"""Rate, distortion and time of the codec beside others, measured on real files (extra "eval").

    metrics             PSNR, MS-SSIM of one decoded picture
    anchors             JPEG and WebP, with the two methods of codec.Codec
    rate_distortion     pictures x codecs x qualities -> rows, means, monotonicity, CSV and JSON
    bd_rate             two curves -> one percentage
    published           curves of other codecs as their authors published them
    report, plot        results (JSON) and pictures -> one HTML page, or a plot
    compare             a picture and other versions of it -> figures, and an HTML page
    pages, assets       what those pages are made of

Nothing is imported here: each module is asked for by name, and brings in only what it needs.
"""
