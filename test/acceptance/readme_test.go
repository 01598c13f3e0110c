package acceptance

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestFiveMinutes types what the README's section shows, and compares what it shows as the answer.
func TestFiveMinutes(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Five minutes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	r := newRig(t)
	spoken := strings.NewReplacer("sudo ", "", "bin/stacyvm", "stacyvm", "localhost:7423", strings.TrimPrefix(r.server.URL(), "http://"))
	var sandbox, process string
	steps := regexp.MustCompile(`(?m)^\$ (.*)\n((?:[^$`+"`"+`\n].*\n)*)`).FindAllStringSubmatch(section, -1)
	for _, step := range steps {
		line := strings.NewReplacer("sb-5f0c…", sandbox, "PROCESS", process).Replace(spoken.Replace(step[1]))
		var out string
		switch {
		case line == "stacyvm serve &":
			r.serve()
			continue
		case strings.Contains(line, "exec -it"):
			w := r.open(r.shell(line))
			w.expect("# ")
			w.type_("exit\r")
			w.end(0)
			continue
		case strings.HasPrefix(line, "ID="):
			r.env = append(r.env, "ID="+strings.TrimSpace(r.must(r.shell(line+"; echo $ID"))))
			continue
		default:
			out = r.must(r.shell(line))
		}
		if step[2] != "" && !like(step[2]).MatchString(out) {
			t.Errorf("%s\nprinted %q\nthe README shows %q", line, out, step[2])
		}
		switch {
		case sandbox == "" && strings.Contains(line, "spawn"):
			sandbox = regexp.MustCompile(`sb-[0-9a-f]+`).FindString(out)
		case strings.Contains(line, "--detach"):
			process = strings.TrimSpace(out)
		}
	}
	if len(steps) < 12 || sandbox == "" || process == "" {
		t.Errorf("the section has %d steps, sandbox %q, process %q", len(steps), sandbox, process)
	}
}

// like matches what a machine prints where the README shows an example: ids, times and versions
// differ.
func like(example string) *regexp.Regexp {
	pattern := regexp.QuoteMeta(example)
	pattern = strings.ReplaceAll(pattern, "sb-5f0c…", `sb-[0-9a-f]+`)
	pattern = regexp.MustCompile(`3\\\.11\\\.2`).ReplaceAllString(pattern, `[0-9.]+`)
	pattern = regexp.MustCompile(`"21ms"`).ReplaceAllString(pattern, `"[0-9.µm]+s"`)
	return regexp.MustCompile(`^` + pattern + `$`)
}

// TestCompletion: a real bash completes commands, flags, sandboxes and processes.
func TestCompletion(t *testing.T) {
	testneed.Program(t, "bash")
	r := newRig(t).serve()
	sandbox := r.sandbox()
	process := strings.TrimSpace(r.must(r.command("exec", "--detach", sandbox, "--", "sleep", "1000")))
	// The script asks bash-completion for the words; here they are given.
	r.write("complete.bash", `source <(stacyvm completion bash)
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
__ltrim_colon_completions() { :; }
COMP_WORDS=(stacyvm "$@"); COMP_CWORD=$#; COMP_LINE="stacyvm $*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9
__start_stacyvm
printf '%s\n' "${COMPREPLY[@]}"
`, 0o644)
	for line, want := range map[string]string{
		"spa":                              "spawn",
		"image im":                         "import",
		"exec --deta":                      "--detach",
		"list --output j":                  "json",
		"kill ":                            sandbox,
		"exec " + sandbox[:6]:              sandbox,
		"attach " + sandbox + " ":          process,
		"cp --serv":                        "--server=",
		"completion fi":                    "fish",
		"logs " + sandbox + " --outp":      "--output",
		"ps --server http://127.0.0.1:1 s": "",
	} {
		words := strings.Split(line, " ")
		out := r.must(r.program("bash", append([]string{"complete.bash"}, words...)...))
		first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		if got, _, _ := strings.Cut(first, " "); got != want && strings.TrimSuffix(want, "=") != got {
			t.Errorf("%q completes to %q, want %q", line, out, want)
		}
	}
	for _, shell := range []string{"zsh", "fish", "powershell"} {
		if out := r.must(r.command("completion", shell)); !strings.Contains(out, "stacyvm") {
			t.Errorf("%s: %q", shell, out)
		}
	}
}
