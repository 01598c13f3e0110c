package cluster_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"

	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

// TestWhatAWorkerSaysOfItself is refused at the heartbeat, with the field's name, before a row
// holds it.
func TestWhatAWorkerSaysOfItself(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	ctx := auth.With(t.Context(), auth.WorkerIdentity{WorkerID: "w", Scopes: auth.WorkerScopes()}.Principal())
	say := func(change func(*stacyvm.Worker)) error {
		w := stacyvm.Worker{ID: "w", Status: "online", Providers: []string{"mock"}}
		change(&w)
		_, err := r.Heartbeat(ctx, cluster.Beat{Worker: w})
		return err
	}
	address := func(url string) func(*stacyvm.Worker) {
		return func(w *stacyvm.Worker) { w.Capacity.RPCURL = url }
	}
	for field, all := range map[string][]func(*stacyvm.Worker){
		"capacity.rpc_url": {
			address("http://169.254.169.254:80"), address("http://169.254.1.1:7424"), address("https://[fe80::1]:7424"), address("https://[fe80::1%25eth0]:7424"),
			address("http://[::ffff:169.254.169.254]:80"), address("http://[fd00:ec2::254]:80"), address("http://100.100.100.200:80"),
			address("http://metadata.google.internal:80"), address("http://METADATA.google.internal.:80"), address("http://2852039166:80"),
			address("http://0xa9fea9fe:80"), address("http://169.254.43518:80"), address("http://0251.0376.0251.0376:80"), address("http://0.0.0.0:80"), address("http://224.0.0.1:80"),
			address("ftp://10.0.0.7:21"), address("unix:///run/x.sock"), address("//10.0.0.7:7424"), address("10.0.0.7:7424"), address("http:10.0.0.7"), address("http://"),
			address("http://:7424"), address("http://10.0.0.7:"), address("http://10.0.0.7:0"), address("http://10.0.0.7:65536"), address("http://10.0.0.7:7424/"),
			address("http://10.0.0.7:7424/guest"), address("http://10.0.0.7:7424?x=1"), address("http://10.0.0.7:7424?"), address("http://10.0.0.7:7424#x"),
			address("http://10.0.0.7:7424#"), address("http://user@10.0.0.7:7424"), address("http://user:secret@10.0.0.7:7424"), address("http://@10.0.0.7:7424"),
			address("HTTP://10.0.0.7:7424"), address("http://10.0.0.7:7424\n"), address("http://a b:7424"), address("http://exa%6dple:7424"), address("http://-x:7424"),
		},
		"capacity.preview_domain": {
			func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = "http://x" }, func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = "a/b" },
			func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = "user@x.example" }, func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = "x.example\x1b[2J" },
			func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = strings.Repeat("a.", 130) + "b" }, func(w *stacyvm.Worker) { w.Capacity.PreviewDomain = "169.254.169.254" },
		},
		"hostname": {
			func(w *stacyvm.Worker) { w.Hostname = "a\x1b[31m" }, func(w *stacyvm.Worker) { w.Hostname = "a b" }, func(w *stacyvm.Worker) { w.Hostname = "a\x00" },
			func(w *stacyvm.Worker) { w.Hostname = "a\xff" }, func(w *stacyvm.Worker) { w.Hostname = "a\u202eb" }, func(w *stacyvm.Worker) { w.Hostname = strings.Repeat("a", 256) },
		},
		"capacity.labels": {
			func(w *stacyvm.Worker) { w.Capacity.Labels = map[string]string{"": "x"} }, func(w *stacyvm.Worker) { w.Capacity.Labels = map[string]string{"a": "x\ny"} },
			func(w *stacyvm.Worker) { w.Capacity.Labels = map[string]string{"a\x00": "x"} }, func(w *stacyvm.Worker) { w.Capacity.Labels = map[string]string{"a": strings.Repeat("x", 129)} },
		},
		"providers":    {func(w *stacyvm.Worker) { w.Providers = []string{"mo\x07ck"} }},
		"capabilities": {func(w *stacyvm.Worker) { w.Capabilities = []string{strings.Repeat("x", 65)} }},
		"problems": {
			func(w *stacyvm.Worker) { w.Problems = []string{"a\nb"} }, func(w *stacyvm.Worker) { w.Problems = []string{"a\x1b[2J"} },
			func(w *stacyvm.Worker) { w.Problems = []string{strings.Repeat("a", 513)} }, func(w *stacyvm.Worker) { w.Problems = make([]string, 17) },
		},
		"session": {func(w *stacyvm.Worker) { w.Session = "a\nb" }},
		"status":  {func(w *stacyvm.Worker) { w.Status = "busy" }},
	} {
		for i, change := range all {
			err := say(change)
			if known, ok := errors.AsType[*stacyvm.Error](err); !ok || known.Code != stacyvm.CodeInvalid || known.Field != field {
				t.Errorf("%s %d: %v", field, i, err)
			}
		}
	}
	err := r.Store.View(t.Context(), func(tx store.Tx) error {
		_, err := tx.Workers().Get(t.Context(), "w")
		return err
	})
	wantCode(t, err, stacyvm.CodeNotFound)
	for _, url := range []string{"", "http://10.0.0.7:7424", "https://worker-a.rack1.example:7424", "http://127.0.0.1:1", "https://[2001:db8::1]:7424", "https://there", "http://far_1:7424"} {
		err := say(func(w *stacyvm.Worker) {
			w.Hostname, w.Capacity.RPCURL, w.Capacity.PreviewDomain = "worker-a.rack1", url, "preview.example"
			w.Capacity.Labels = map[string]string{"zone": "a", "größe": "", "disk": "nvme"}
		})
		if err != nil {
			t.Errorf("%q: %v", url, err)
		}
	}
}
