--- The helper for specs of templates, under the name by which the specs of this repository find it.
return require "template.testing"
