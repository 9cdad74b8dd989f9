"""ROWS, Row: the classification networks of torchvision by family, one line each. Data only; catalogue.py gives it its meaning.

What a line says is what torchvision says of its default weights; tests/test_catalogue.py holds them equal, and tries `smallest`.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One network: what torchvision knows of it and of its default weights."""

    name: str
    crop: int
    """Side of the square its weights were evaluated at, in pixels."""
    resize: int
    """Length the short side was scaled to before that square was cut out."""
    interpolation: str
    smallest: int
    """Smallest side it runs at, in pixels, and no less than catalogue.FLOOR."""
    multiple: int
    """Its side must be a multiple of this."""
    parameters: int
    """With the 1000 outputs of ImageNet, without auxiliary outputs where torchvision does not count them."""
    mebibytes: float
    """Size of the weights file, to a thousandth."""
    file: str
    """Name of the weights file; its last part is the beginning of its sha256."""


ROWS: dict[str, tuple[Row, ...]] = {
    "alexnet": (
        Row("alexnet", 224, 256, "bilinear", 63, 1, 61_100_840, 233.087, "alexnet-owt-7be5be79.pth"),
    ),
    "convnext": (
        Row("convnext_base", 224, 232, "bilinear", 32, 1, 88_591_464, 338.064, "convnext_base-6075fbad.pth"),
        Row("convnext_large", 224, 232, "bilinear", 32, 1, 197_767_336, 754.537, "convnext_large-ea097f82.pth"),
        Row("convnext_small", 224, 230, "bilinear", 32, 1, 50_223_688, 191.703, "convnext_small-0c510722.pth"),
        Row("convnext_tiny", 224, 236, "bilinear", 32, 1, 28_589_128, 109.119, "convnext_tiny-983f1562.pth"),
    ),
    "densenet": (
        Row("densenet121", 224, 256, "bilinear", 29, 1, 7_978_856, 30.845, "densenet121-a639ec97.pth"),
        Row("densenet161", 224, 256, "bilinear", 29, 1, 28_681_000, 110.369, "densenet161-8d451a50.pth"),
        Row("densenet169", 224, 256, "bilinear", 29, 1, 14_149_480, 54.708, "densenet169-b2777c0a.pth"),
        Row("densenet201", 224, 256, "bilinear", 29, 1, 20_013_928, 77.373, "densenet201-c1103571.pth"),
    ),
    "efficientnet": (
        Row("efficientnet_b0", 224, 256, "bicubic", 16, 1, 5_288_548, 20.451, "efficientnet_b0_rwightman-7f5810bc.pth"),
        Row("efficientnet_b1", 240, 255, "bilinear", 16, 1, 7_794_184, 30.136, "efficientnet_b1-c27df63c.pth"),
        Row("efficientnet_b2", 288, 288, "bicubic", 16, 1, 9_109_994, 35.174, "efficientnet_b2_rwightman-c35c1473.pth"),
        Row("efficientnet_b3", 300, 320, "bicubic", 16, 1, 12_233_232, 47.184, "efficientnet_b3_rwightman-b3899882.pth"),
        Row("efficientnet_b4", 380, 384, "bicubic", 16, 1, 19_341_616, 74.489, "efficientnet_b4_rwightman-23ab8bcd.pth"),
        Row("efficientnet_b5", 456, 456, "bicubic", 16, 1, 30_389_784, 116.864, "efficientnet_b5_lukemelas-1a07897c.pth"),
        Row("efficientnet_b6", 528, 528, "bicubic", 16, 1, 43_040_704, 165.362, "efficientnet_b6_lukemelas-24a108a5.pth"),
        Row("efficientnet_b7", 600, 600, "bicubic", 16, 1, 66_347_960, 254.675, "efficientnet_b7_lukemelas-c5b4e57e.pth"),
    ),
    "efficientnet_v2": (
        Row("efficientnet_v2_l", 480, 480, "bicubic", 16, 1, 118_515_272, 454.573, "efficientnet_v2_l-59c71312.pth"),
        Row("efficientnet_v2_m", 480, 480, "bilinear", 16, 1, 54_139_356, 208.01, "efficientnet_v2_m-dc08266a.pth"),
        Row("efficientnet_v2_s", 384, 384, "bilinear", 16, 1, 21_458_488, 82.704, "efficientnet_v2_s-dd5fe13b.pth"),
    ),
    "googlenet": (
        Row("googlenet", 224, 256, "bilinear", 16, 1, 6_624_904, 49.731, "googlenet-1378be20.pth"),
    ),
    "inception": (
        Row("inception_v3", 299, 342, "bilinear", 75, 1, 27_161_264, 103.903, "inception_v3_google-0cc3c7bd.pth"),
    ),
    "maxvit": (
        Row("maxvit_t", 224, 224, "bicubic", 224, 224, 30_919_624, 118.769, "maxvit_t-bc5ab103.pth"),
    ),
    "mnasnet": (
        Row("mnasnet0_5", 224, 256, "bilinear", 16, 1, 2_218_512, 8.591, "mnasnet0.5_top1_67.823-3ffadce67e.pth"),
        Row("mnasnet0_75", 224, 232, "bilinear", 16, 1, 3_170_208, 12.303, "mnasnet0_75-7090bc5f.pth"),
        Row("mnasnet1_0", 224, 256, "bilinear", 16, 1, 4_383_312, 16.915, "mnasnet1.0_top1_73.512-f206786ef8.pth"),
        Row("mnasnet1_3", 224, 232, "bilinear", 16, 1, 6_282_256, 24.246, "mnasnet1_3-a4c69d6f.pth"),
    ),
    "mobilenet": (
        Row("mobilenet_v2", 224, 232, "bilinear", 16, 1, 3_504_872, 13.598, "mobilenet_v2-7ebf99e0.pth"),
        Row("mobilenet_v3_large", 224, 232, "bilinear", 16, 1, 5_483_032, 21.107, "mobilenet_v3_large-5c1a4163.pth"),
        Row("mobilenet_v3_small", 224, 256, "bilinear", 16, 1, 2_542_856, 9.829, "mobilenet_v3_small-047dcff4.pth"),
    ),
    "regnet": (
        Row("regnet_x_1_6gf", 224, 232, "bilinear", 16, 1, 9_190_136, 35.339, "regnet_x_1_6gf-a12f2b72.pth"),
        Row("regnet_x_3_2gf", 224, 232, "bilinear", 16, 1, 15_296_552, 58.756, "regnet_x_3_2gf-7071aa85.pth"),
        Row("regnet_x_8gf", 224, 232, "bilinear", 16, 1, 39_572_648, 151.456, "regnet_x_8gf-2b70d774.pth"),
        Row("regnet_x_16gf", 224, 232, "bilinear", 16, 1, 54_278_536, 207.627, "regnet_x_16gf-ba3796d7.pth"),
        Row("regnet_x_32gf", 224, 232, "bilinear", 16, 1, 107_811_560, 412.039, "regnet_x_32gf-6eb8fdc6.pth"),
        Row("regnet_x_400mf", 224, 232, "bilinear", 16, 1, 5_495_976, 21.257, "regnet_x_400mf-62229a5f.pth"),
        Row("regnet_x_800mf", 224, 232, "bilinear", 16, 1, 7_259_656, 27.945, "regnet_x_800mf-94a99ebd.pth"),
        Row("regnet_y_1_6gf", 224, 232, "bilinear", 16, 1, 11_202_430, 43.152, "regnet_y_1_6gf-0d7bc02a.pth"),
        Row("regnet_y_3_2gf", 224, 232, "bilinear", 16, 1, 19_436_338, 74.567, "regnet_y_3_2gf-9180c971.pth"),
        Row("regnet_y_8gf", 224, 232, "bilinear", 16, 1, 39_381_472, 150.701, "regnet_y_8gf-dc2b1b54.pth"),
        Row("regnet_y_16gf", 224, 232, "bilinear", 16, 1, 83_590_140, 319.49, "regnet_y_16gf-3e4a00f9.pth"),
        Row("regnet_y_32gf", 224, 232, "bilinear", 16, 1, 145_046_770, 554.076, "regnet_y_32gf-8db6d4b5.pth"),
        Row("regnet_y_128gf", 384, 384, "bicubic", 16, 1, 644_812_894, 2461.564, "regnet_y_128gf_swag-c8ce3e52.pth"),
        Row("regnet_y_400mf", 224, 232, "bilinear", 16, 1, 4_344_144, 16.806, "regnet_y_400mf-e6988f5f.pth"),
        Row("regnet_y_800mf", 224, 232, "bilinear", 16, 1, 6_432_512, 24.774, "regnet_y_800mf-58fc7688.pth"),
    ),
    "resnet": (
        Row("resnet18", 224, 256, "bilinear", 16, 1, 11_689_512, 44.661, "resnet18-f37072fd.pth"),
        Row("resnet34", 224, 256, "bilinear", 16, 1, 21_797_672, 83.275, "resnet34-b627a593.pth"),
        Row("resnet50", 224, 232, "bilinear", 16, 1, 25_557_032, 97.79, "resnet50-11ad3fa6.pth"),
        Row("resnet101", 224, 232, "bilinear", 16, 1, 44_549_160, 170.53, "resnet101-cd907fc2.pth"),
        Row("resnet152", 224, 232, "bilinear", 16, 1, 60_192_808, 230.474, "resnet152-f82ba261.pth"),
    ),
    "resnext": (
        Row("resnext50_32x4d", 224, 232, "bilinear", 16, 1, 25_028_904, 95.833, "resnext50_32x4d-1a0047aa.pth"),
        Row("resnext101_32x8d", 224, 232, "bilinear", 16, 1, 88_791_336, 339.673, "resnext101_32x8d-110c445d.pth"),
        Row("resnext101_64x4d", 224, 232, "bilinear", 16, 1, 83_455_272, 319.318, "resnext101_64x4d-173b62eb.pth"),
    ),
    "shufflenet": (
        Row("shufflenet_v2_x0_5", 224, 256, "bilinear", 16, 1, 1_366_792, 5.282, "shufflenetv2_x0.5-f707e7126e.pth"),
        Row("shufflenet_v2_x1_0", 224, 256, "bilinear", 16, 1, 2_278_604, 8.791, "shufflenetv2_x1-5666bf0f80.pth"),
        Row("shufflenet_v2_x1_5", 224, 232, "bilinear", 16, 1, 3_503_624, 13.557, "shufflenetv2_x1_5-3c479a10.pth"),
        Row("shufflenet_v2_x2_0", 224, 232, "bilinear", 16, 1, 7_393_996, 28.433, "shufflenetv2_x2_0-8be3c8ee.pth"),
    ),
    "squeezenet": (
        Row("squeezenet1_0", 224, 256, "bilinear", 21, 1, 1_248_424, 4.778, "squeezenet1_0-b66bff10.pth"),
        Row("squeezenet1_1", 224, 256, "bilinear", 17, 1, 1_235_496, 4.729, "squeezenet1_1-b8a52dc0.pth"),
    ),
    "swin": (
        Row("swin_b", 224, 238, "bicubic", 16, 1, 87_768_224, 335.364, "swin_b-68c6b09e.pth"),
        Row("swin_s", 224, 246, "bicubic", 16, 1, 49_606_258, 189.786, "swin_s-5e29d889.pth"),
        Row("swin_t", 224, 232, "bicubic", 16, 1, 28_288_354, 108.19, "swin_t-704ceda3.pth"),
        Row("swin_v2_b", 256, 272, "bicubic", 16, 1, 87_930_848, 336.372, "swin_v2_b-781e5279.pth"),
        Row("swin_v2_s", 256, 260, "bicubic", 16, 1, 49_737_442, 190.675, "swin_v2_s-637d8ceb.pth"),
        Row("swin_v2_t", 256, 260, "bicubic", 16, 1, 28_351_570, 108.626, "swin_v2_t-b137f0e2.pth"),
    ),
    "vgg": (
        Row("vgg11", 224, 256, "bilinear", 32, 1, 132_863_336, 506.84, "vgg11-8a719046.pth"),
        Row("vgg11_bn", 224, 256, "bilinear", 32, 1, 132_868_840, 506.881, "vgg11_bn-6002323d.pth"),
        Row("vgg13", 224, 256, "bilinear", 32, 1, 133_047_848, 507.545, "vgg13-19584684.pth"),
        Row("vgg13_bn", 224, 256, "bilinear", 32, 1, 133_053_736, 507.59, "vgg13_bn-abd245e5.pth"),
        Row("vgg16", 224, 256, "bilinear", 32, 1, 138_357_544, 527.796, "vgg16-397923af.pth"),
        Row("vgg16_bn", 224, 256, "bilinear", 32, 1, 138_365_992, 527.866, "vgg16_bn-6c64b313.pth"),
        Row("vgg19", 224, 256, "bilinear", 32, 1, 143_667_240, 548.051, "vgg19-dcbb9e9d.pth"),
        Row("vgg19_bn", 224, 256, "bilinear", 32, 1, 143_678_248, 548.143, "vgg19_bn-c79401a0.pth"),
    ),
    "vit": (
        Row("vit_b_16", 224, 256, "bilinear", 16, 16, 86_567_656, 330.285, "vit_b_16-c867db91.pth"),
        Row("vit_b_32", 224, 256, "bilinear", 32, 32, 88_224_232, 336.604, "vit_b_32-d86f8d99.pth"),
        Row("vit_h_14", 518, 518, "bicubic", 28, 14, 633_470_440, 2416.643, "vit_h_14_swag-80465313.pth"),
        Row("vit_l_16", 224, 242, "bilinear", 16, 16, 304_326_632, 1161.023, "vit_l_16-852ce7e3.pth"),
        Row("vit_l_32", 224, 256, "bilinear", 32, 32, 306_535_400, 1169.449, "vit_l_32-c7638314.pth"),
    ),
    "wide_resnet": (
        Row("wide_resnet50_2", 224, 232, "bilinear", 16, 1, 68_883_240, 263.124, "wide_resnet50_2-9ba9bcbe.pth"),
        Row("wide_resnet101_2", 224, 232, "bilinear", 16, 1, 126_886_696, 484.747, "wide_resnet101_2-d733dc28.pth"),
    ),
}
