--- The corpus of hostile values: the one that `atelier template check` uses.
return require "template.nasty"
