local discreet = require "discreet"
local failure = require "workflow.failure"

describe("what outsiders are told", function()
  it("names no folder of this host", function()
    for given, told in pairs {
      ["template: /srv/shop/templates/x.at: No such file"] = "template: x.at: No such file",
      ["/a/b.lua:3: oops"] = "b.lua:3: oops",
      ["open '/a/b-c/d.conf': denied"] = "open 'd.conf': denied",
      ["config: /etc/x.lua: a, /etc/y.lua: b"] = "config: x.lua: a, y.lua: b",
      ["storage: https://h.invalid/a/b answered 503"] = "storage: https://h.invalid/a/b answered 503",
      ["key:/etc/atelier/x.pem"] = "key:x.pem",
      ["jail: [/var/lib/atelier/x] is full"] = "jail: [x] is full",
      ["</srv/a/b.at> {/srv/a/c.at},/srv/a/d.at;/srv/a/e.at|/srv/a/f.at"] = "<b.at> {f.at",
      ["file:///etc/atelier/x.conf.lua: no"] = "file:x.conf.lua: no",
      ["postgresql:///shop?host=/run/postgresql/x"] = "postgresql:x",
      ["https://h.invalid/a/b"] = "https://h.invalid/a/b",
      ["(https://h.invalid:8080/a?to=/b/c): /etc/x/y"] = "(https://h.invalid:8080/a?to=/b/c): y",
      ["url:https://[::1]:5/a/b, key:/etc/x/y"] = "url:https://[::1]:5/a/b, key:y",
      ["https://a.invalid/b/c https://d.invalid/e/f"] = "https://a.invalid/b/c https://d.invalid/e/f",
      ["../a/b ~/c/d 50%/a/b Stück/a/b"] = "../a/b ~/c/d 50%/a/b Stück/a/b",
      [""] = "", ["/"] = "/",
      ["main.lua:1: the spindle is bent"] = "main.lua:1: the spindle is bent",
      ["generated/DEV/x.ate: 1/2"] = "generated/DEV/x.ate: 1/2",
    } do
      assert.equal(told, discreet.paths(given))
    end
  end)

  it("says of a script of ours only that it stumbled", function()
    local text = failure.text("internal error: lua/template/kit.lua:132: attempt to index a nil value", "internal")
    assert.matches("^internal: a fault of the service", text)
    assert.not_matches("kit.lua", text)
    assert.equal("jail_error: main.lua:1: no", failure.text("main.lua:1: no", "jail_error"))
    assert.equal("enoent: template: x.at: No such file", failure.text("template: /srv/x.at: No such file", "ENOENT"))
  end)
end)
