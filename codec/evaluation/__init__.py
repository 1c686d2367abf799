"""Rate, distortion and time of the codec beside others, measured on real files (extra "eval").

    metrics             PSNR, MS-SSIM of one decoded picture
    anchors             JPEG and WebP, with the two methods of codec.Codec
    rate_distortion     pictures x codecs x qualities -> rows, means, monotonicity, CSV and JSON
    bd_rate             two curves -> one percentage

Nothing is imported here: each module is asked for by name, and brings in only what it needs.
"""
