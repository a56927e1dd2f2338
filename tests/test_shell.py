"""Which shell reads a script that has no #! line, and what is said where it is the wrong one."""
import json
import os
import unittest
from typing import Any, Dict

from harness import Case, needs, rc_path
from serving import Server

FOR_SH = ("export A=1; echo $A", "echo $(date)", "[ -f x ] && echo y",
          "if [ a = a ]; then echo; fi", "ls >f 2>&1",
          "for i in a b\ndo echo $i\ndone", "case $1 in\n*) echo ;;\nesac")
FOR_BOTH = ("hostname; pwd; echo moo", "ls | wc -l", "$mpirun hostname", "echo moo >f; exit 3")
FOR_RC = ("if(~ a b) {echo x} else {echo y}", "fn f {echo $*}\nf a b", "x=(a b)\necho $x(1)")


class Shells(Case):
    """The shell of a script without #!."""

    def run_text(self, script: str, status: int = 0) -> Any:
        return self.psik("run", "--wait", "-", stdin=json.dumps({"script": script}), status=status)

    def status(self) -> Dict[str, Any]:
        return dict(json.loads(self.psik("status", "--json", "last").out)[0])

    @needs("rc", rc_path())
    def test_what_is_plainly_for_sh_is_refused_where_rc_was_merely_found(self) -> None:
        for script in FOR_SH:
            said = self.run_text(script, 2).err
            self.assertRegex(said, "^psik: script: it has no #! line, so %s would run it, but "
                             ".* begin it with #!/bin/sh" % rc_path())
        self.assertIn("syntax error near i", self.run_text("for i in a b {echo $i}", 2).err)
        self.assertFalse(os.path.exists(os.path.join(self.prefix, "local")))
        for script in FOR_BOTH[:3] + FOR_RC:
            self.run_text(script)
        self.assertEqual(self.status()["shell"], rc_path())

    @needs("rc", rc_path())
    def test_what_the_config_names_is_taken(self) -> None:
        self.configure(rc_path=rc_path())
        for script in FOR_SH[:2]:
            self.psik("run", "--no-submit", "-", stdin=json.dumps({"script": script}))
        self.configure(rc_path="/bin/sh")
        for script in FOR_SH:
            self.run_text(script, 1 if script.startswith("[") else 0)
        self.assertEqual(self.status()["shell"], "/bin/sh")

    def test_a_line_of_its_own_decides(self) -> None:
        self.run_text("#!/bin/sh\nexport A=1; test $A = 1")
        self.assertEqual(self.status()["shell"], "/bin/sh")

    @needs("rc", rc_path())
    def test_over_rest(self) -> None:
        answer = Server(self, "--uds", "s.sock").ask("POST", "/v1/jobs", {"script": FOR_SH[0]})
        self.assertEqual(answer.status, 422)
        self.assertEqual(answer.json["detail"][0]["loc"], ["body", "script"])

    def test_a_syntax_error_names_the_shell(self) -> None:
        for shell, script in ((rc_path(), "echo (a"), ("/bin/sh", "if then")):
            if shell:
                self.configure(rc_path=shell)
                self.psik("run", "--wait", "-", stdin=json.dumps({"script": script}), status=None)
                self.assertEqual(self.status()["reason"], "a syntax error for %s, which reads a "
                                 "script without #!" % shell)
        self.run_text("#!/bin/sh\nif then", 2)
        self.assertRegex(self.status()["reason"], "^run: .*[Ss]yntax error")


if __name__ == "__main__":
    unittest.main()
