"""Known layouts of sets of identities by name: what `prepare --layout` takes. A file holds a family of them."""

from mrl_jax.data.preparing.layouts import by_list, by_name, faces, landmarks, templates

LAYOUTS = {
    "market1501": by_name.market1501,
    "veri776": by_name.veri776,
    "msmt17": by_list.msmt17,
    "inshop": by_list.inshop,
    "gldv2": landmarks.gldv2,
    "roxford5k": landmarks.roxford5k,
    "rparis6k": landmarks.rparis6k,
    "ms1mv3": faces.ms1mv3,
    "ijbc": templates.ijbc,
}
