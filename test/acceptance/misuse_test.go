package acceptance

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
)

const goodKey = "0123456789abcdef0123456789abcdef"

// foreignToken has the form of a worker's token; no key of these tests signed it.
const foreignToken = "stacyvm-worker-v1.eyJ3b3JrZXJfaWQiOiJhIiwianRpIjoieCIsImF1ZCI6IndvcmtlcjpycGMiLCJpYXQiOjEsImV4cCI6Mn0." +
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// misuses are command lines that must fail. Their complaint holds the word: the argument, flag or
// field that is wrong. $SB is a sandbox, $PROC a process in it, $NONE a sandbox that does not
// exist, $OFF an address without a server, $EMPTY an empty argument; a leading NAME=VALUE is set
// in the environment.
var misuses = []struct {
	line string
	exit int
	says string
}{
	{"nope", 1, `"nope"`}, {"--nope", 1, "--nope"}, {"--server", 1, "--server"}, {"--output json", 1, "--output"}, {"lst", 1, "list"},
	{"help nope", 1, `"nope"`}, {"help image nope", 1, `"nope"`}, {"help --nope", 1, "--nope"}, {"help --config x", 1, "--config"},
	{"completion nope", 1, `"nope"`}, {"completion --nope", 1, "--nope"},
	{"completion bash extra", 1, `"extra"`}, {"completion fish extra", 1, `"extra"`}, {"completion zsh extra", 1, `"extra"`}, {"completion powershell extra", 1, `"extra"`},
	{"completion bash --server http://x", 1, "--server"},
	{"version extra", 1, `"extra"`}, {"version --nope", 1, "--nope"}, {"version --output xml", 1, "--output"}, {"version --server http://x", 1, "--server"},

	{"serve extra", 1, `"extra"`}, {"serve --nope", 1, "--nope"}, {"serve --server http://0.0.0.0:80", 1, "--server"}, {"serve --api-key x", 1, "--api-key"},
	{"serve --config absent.yaml", 1, "absent.yaml"}, {"serve --config dir", 1, "dir"}, {"serve --config broken.yaml", 1, "prot"},
	{"STACYVM_SERVER_PORT=x serve", 1, "STACYVM_SERVER_PORT"}, {"STACYVM_SERVER_PORT=99999 serve", 1, "server.port"},
	{"STACYVM_DATA_DIR=file serve", 1, "data_dir"}, {"STACYVM_SERVER_HOST=0.0.0.0 serve", 1, "auth.api_key"}, {"serve", 1, "STACYVM_DATA_DIR"},
	{"STACYVM_PROVIDERS_DEFAULT=nope serve", 1, "providers.default"}, {"STACYVM_LOGGING_LEVEL=loud serve", 1, "logging.level"},

	{"run", 1, "COMMAND"}, {"run --", 1, "COMMAND"}, {"run --nope -- true", 1, "--nope"}, {"run --server http://x -- true", 1, "--server"},
	{"run --api-key x -- true", 1, "--api-key"}, {"run --config absent.yaml -- true", 1, "absent.yaml"}, {"run --output json -- true", 1, "--output"},
	{"run --memory 0 -- true", 1, "--memory"}, {"run --memory x -- true", 1, "--memory"}, {"run --memory 3 -- true", 1, "memory_mb"},
	{"run --vcpus -1 -- true", 1, "--vcpus"}, {"run --vcpus 9999 -- true", 1, "vcpus"}, {"run --disk 0 -- true", 1, "--disk"}, {"run --disk 1 -- true", 1, "disk_mb"},
	{"run --image nowhere -- true", 1, `"nowhere"`}, {"run --provider nowhere -- true", 1, `"nowhere"`},
	{"run --timeout -1s -- true", 1, "--timeout"}, {"run --timeout soon -- true", 1, "--timeout"}, {"run -e =x -- true", 1, "--env"},
	{"run -w here -- true", 1, "workdir"}, {"run -w /nowhere -- true", 126, "workdir"}, {"run -u nobodyhere -- true", 126, "nobodyhere"},
	{"run -t -- true", 1, "--tty"}, {"run -- /nowhere", 127, "/nowhere"}, {"run -- /etc", 126, "/etc"}, {"STACYVM_DATA_DIR=file run -- true", 1, "data_dir"},

	{"spawn extra", 1, `"extra"`}, {"spawn --nope", 1, "--nope"}, {"spawn --config x", 1, "--config"}, {"spawn --output xml", 1, "--output"},
	{"spawn --memory 0", 1, "--memory"}, {"spawn --memory x", 1, "--memory"}, {"spawn --memory 3", 1, "memory_mb"}, {"spawn --vcpus 0", 1, "--vcpus"},
	{"spawn --vcpus 9999", 1, "vcpus"}, {"spawn --disk -1", 1, "--disk"}, {"spawn --disk 1", 1, "disk_mb"}, {"spawn --image nowhere", 1, `"nowhere"`},
	{"spawn --provider nowhere", 1, `"nowhere"`}, {"spawn --ttl 0s", 1, "--ttl"}, {"spawn --ttl soon", 1, "--ttl"}, {"spawn --ttl 100000h", 1, "ttl"},
	{"spawn -e =x", 1, "--env"}, {"spawn --metadata x", 1, "--metadata"}, {"spawn --owner a/b", 1, "owner_id"},
	{"spawn --server $OFF", 1, "$OFF"}, {"spawn --server ftp://x", 1, "--server"}, {"spawn --server nonsense", 1, "--server"}, {"spawn --server $EMPTY", 1, "--server"},
	{"STACYVM_API_KEY=wrong spawn", 1, "STACYVM_API_KEY"}, {"STACYVM_API_KEY= spawn", 1, "STACYVM_API_KEY"},

	{"events extra", 1, `"extra"`}, {"events --nope", 1, "--nope"}, {"events --config x", 1, "--config"}, {"events --output xml", 1, "--output"},
	{"events --since x", 1, "--since"}, {"events --since -1", 1, "--since"}, {"events --server $OFF", 1, "$OFF"},
	{"STACYVM_API_KEY=wrong events", 1, "STACYVM_API_KEY"},

	{"status extra", 1, `"extra"`}, {"status --nope", 1, "--nope"}, {"status --output xml", 1, "--output"}, {"status --json=x", 1, "--json"},

	{"exec", 1, "SANDBOX"}, {"exec $SB", 1, "COMMAND"}, {"exec $SB --", 1, "COMMAND"}, {"exec --nope $SB", 1, "--nope"}, {"exec $SB --nope -- true", 1, "--nope"},
	{"exec $NONE -- true", 1, "$NONE"}, {"exec $EMPTY -- true", 1, "SANDBOX"}, {"exec nonsense -- true", 1, `"nonsense"`}, {"exec ../x -- true", 1, "id:"},
	{"exec -d -i $SB -- true", 1, "--detach"}, {"exec -t $SB -- true", 1, "--tty"}, {"exec --timeout 0s $SB -- true", 1, "--timeout"},
	{"exec --timeout soon $SB -- true", 1, "--timeout"}, {"exec $SB --timeout soon -- true", 1, "--timeout"}, {"exec -e =x $SB -- true", 1, "--env"},
	{"exec -w here $SB -- true", 1, "workdir"}, {"exec -w /nowhere $SB -- true", 126, "workdir"}, {"exec -u nobodyhere $SB -- true", 126, "nobodyhere"},
	{"exec $SB -- /nowhere", 127, "/nowhere"}, {"exec $SB -- /etc", 126, "/etc"}, {"exec -d $SB -- /nowhere", 127, "/nowhere"},
	{"exec --server $OFF $SB -- true", 1, "$OFF"}, {"exec --config x $SB -- true", 1, "--config"}, {"STACYVM_API_KEY=wrong exec $SB -- true", 1, "STACYVM_API_KEY"},

	{"attach", 1, "SANDBOX"}, {"attach $SB", 1, "PROCESS"}, {"attach $SB $PROC extra", 1, `"extra"`}, {"attach --nope $SB $PROC", 1, "--nope"},
	{"attach $NONE $PROC", 1, "$NONE"}, {"attach $SB $EMPTY", 1, "PROCESS"}, {"attach $SB nope", 1, `"nope"`}, {"attach $SB ../x", 1, "pid:"}, {"attach -i --no-follow $SB $PROC", 1, "--no-follow"},
	{"attach --server $OFF $SB $PROC", 1, "$OFF"}, {"STACYVM_API_KEY=wrong attach $SB $PROC", 1, "STACYVM_API_KEY"}, {"attach --output json $SB $PROC", 1, "--output"},

	{"ps", 1, "SANDBOX"}, {"ps $SB extra", 1, `"extra"`}, {"ps --nope $SB", 1, "--nope"}, {"ps $NONE", 1, "$NONE"}, {"ps --output xml $SB", 1, "--output"},
	{"ps --server $OFF $SB", 1, "$OFF"}, {"STACYVM_API_KEY=wrong ps $SB", 1, "STACYVM_API_KEY"},

	{"logs", 1, "SANDBOX"}, {"logs $SB extra", 1, `"extra"`}, {"logs --nope $SB", 1, "--nope"}, {"logs $NONE", 1, "$NONE"}, {"logs --output xml $SB", 1, "--output"},
	{"logs -n 0 $SB", 1, "--lines"}, {"logs -n x $SB", 1, "--lines"}, {"logs -n 99999999 $SB", 1, "lines"}, {"logs --server $OFF $SB", 1, "$OFF"},
	{"STACYVM_API_KEY=wrong logs $SB", 1, "STACYVM_API_KEY"},

	{"cp", 1, "SOURCE"}, {"cp file", 1, "TARGET"}, {"cp file $SB:x extra", 1, "SANDBOX:PATH"}, {"cp --nope file $SB:x", 1, "--nope"},
	{"cp file other", 1, "SANDBOX:PATH"}, {"cp $SB:x $SB:y", 1, "SANDBOX:PATH"}, {"cp $EMPTY $SB:x", 1, "SOURCE"}, {"cp $SB:/etc/passwd $EMPTY", 1, "TARGET"},
	{"cp absent $SB:x", 1, "absent"}, {"cp /proc/self/mem $SB:x", 1, "/proc/self/mem"}, {"cp file $NONE:x", 1, "$NONE"}, {"cp $NONE:/etc/passwd here", 1, "$NONE"},
	{"cp file $SB:/etc/passwd/x", 1, "/etc/passwd"}, {"cp dir $SB:/etc/passwd", 1, "/etc/passwd"}, {"cp file $SB:/proc/x", 1, "/proc/x"},
	{"cp $SB:/nowhere here", 1, "/nowhere"}, {"cp $SB:/etc file", 1, "file"}, {"cp $SB:/etc/passwd absent/x", 1, "absent"}, {"cp $SB:/etc/passwd file/x", 1, "file"},
	{"cp --server $OFF file $SB:x", 1, "$OFF"}, {"STACYVM_API_KEY=wrong cp file $SB:x", 1, "STACYVM_API_KEY"}, {"STACYVM_API_KEY=wrong cp $SB:/etc/passwd here", 1, "STACYVM_API_KEY"},

	{"list extra", 1, `"extra"`}, {"list --nope", 1, "--nope"}, {"list --output xml", 1, "--output"}, {"list --output $EMPTY", 1, "--output"},
	{"list --limit -1", 1, "--limit"}, {"list --limit x", 1, "--limit"},
	{"list --server $OFF", 1, "$OFF"}, {"list --config x", 1, "--config"}, {"STACYVM_API_KEY=wrong list", 1, "STACYVM_API_KEY"},

	{"kill", 1, "SANDBOX"}, {"kill $NONE", 1, "$NONE"}, {"kill $EMPTY", 1, "SANDBOX"}, {"kill nonsense", 1, `"nonsense"`}, {"kill ../x", 1, `"../x"`}, {"kill --nope", 1, "--nope"},
	{"kill --server $OFF $SB", 1, "$OFF"}, {"STACYVM_API_KEY=wrong kill $SB", 1, "STACYVM_API_KEY"},

	{"image nope", 1, `"nope"`}, {"image --nope", 1, "--nope"}, {"image --server http://x", 1, "--server"},
	{"image import", 1, "NAME"}, {"image import x", 1, "SOURCE"}, {"image import x y z", 1, `"z"`}, {"image import --nope x file", 1, "--nope"},
	{"image import host dir", 1, `"host"`}, {"image import UPPER/../x dir", 1, "name"}, {"image import x absent", 1, "absent"}, {"image import x $EMPTY", 1, "SOURCE"}, {"image import x file", 1, "file"},
	{"image import x -", 1, "archive"}, {"STACYVM_DATA_DIR=file image import x dir", 1, "file"},
	{"image list extra", 1, `"extra"`}, {"image list --nope", 1, "--nope"}, {"image list --output xml", 1, "--output"}, {"image list --config absent.yaml", 1, "absent.yaml"},
	{"image rm", 1, "NAME"}, {"image rm $EMPTY", 1, "NAME"}, {"image rm absent", 1, `"absent"`}, {"image rm host", 1, `"host"`}, {"image rm --nope x", 1, "--nope"},

	{"config nope", 1, `"nope"`}, {"config show extra", 1, `"extra"`}, {"config show --nope", 1, "--nope"}, {"config show --output xml", 1, "--output"},
	{"config show --config absent.yaml", 1, "absent.yaml"}, {"config show --config broken.yaml", 1, "prot"}, {"config show --server http://x", 1, "--server"},
	{"config lint extra", 1, `"extra"`}, {"config lint --nope", 1, "--nope"}, {"config lint --output xml", 1, "--output"}, {"config lint --file absent.yaml", 1, "absent.yaml"},
	{"config lint --file broken.yaml", 1, "prot"},

	{"db nope", 1, `"nope"`}, {"db --nope", 1, "--nope"},
	{"db backup", 1, "OUT"}, {"db backup x y", 1, `"y"`}, {"db backup $EMPTY", 1, "OUT"}, {"db backup --nope x", 1, "--nope"}, {"db backup --server http://x x", 1, "--server"},
	{"db backup file", 1, "output"}, {"db backup dir --force", 1, "output"}, {"db backup absent/x", 1, "absent"}, {"db backup x --database absent", 1, "database"},
	{"db backup x --database file", 1, "database"}, {"db backup x --config absent.yaml", 1, "absent.yaml"},
	{"db restore", 1, "BACKUP"}, {"db restore file", 1, "--yes"}, {"db restore file --yes", 1, "server"}, {"db restore --nope file", 1, "--nope"}, {"db restore file extra", 1, `"extra"`},
	{"STACYVM_DATA_DIR=other db restore absent --yes", 1, "absent"}, {"STACYVM_DATA_DIR=other db restore file --yes", 1, "database"}, {"STACYVM_DATA_DIR=file db restore file --yes", 1, "data_dir"},
	{"db migrate extra", 1, `"extra"`}, {"db migrate --nope", 1, "--nope"}, {"db migrate --config absent.yaml", 1, "absent.yaml"}, {"STACYVM_DATABASE_PATH=file db migrate", 1, "database"},
	{"db raise-incarnation", 1, "--yes"}, {"db raise-incarnation --yes", 1, "server"}, {"db raise-incarnation extra", 1, `"extra"`}, {"STACYVM_DATA_DIR=other db raise-incarnation --yes", 1, "database"},
	{"db pg-backup", 1, "OUT"}, {"db pg-backup x", 1, "--dsn"}, {"db pg-backup x y", 1, `"y"`}, {"db pg-backup x --dsn nonsense", 1, "database.dsn"}, {"db pg-backup file --dsn postgres://u@127.0.0.1:1/d", 1, "output"},
	{"db pg-backup x --dsn postgres://u@127.0.0.1:1/d --format zip", 1, "format"}, {"db pg-rehearse", 1, "--dsn"}, {"db pg-rehearse extra", 1, `"extra"`}, {"db pg-rehearse --output xml", 1, "--output"},
	{"upgrade nope", 1, `"nope"`}, {"upgrade rehearse extra", 1, `"extra"`}, {"upgrade rehearse --nope", 1, "--nope"}, {"upgrade rehearse --config absent.yaml", 1, "absent.yaml"}, {"upgrade rehearse --server http://x", 1, "--server"},
	{"support nope", 1, `"nope"`}, {"support bundle", 1, "OUT"}, {"support bundle x y", 1, `"y"`}, {"support bundle file", 1, "file"}, {"support bundle absent/x", 1, "absent"}, {"support bundle --nope x", 1, "--nope"},

	{"admin-audit nope", 1, `"nope"`}, {"admin-audit --nope", 1, "--nope"}, {"admin-audit --limit 0", 1, "--limit"},
	{"admin-audit --status x", 1, "--status"}, {"admin-audit --output xml", 1, "--output"}, {"admin-audit --server $OFF", 1, "$OFF"},
	{"worker --authority-sha256 00", 1, "--authority-sha256"},

	{"worker nope", 1, `"nope"`}, {"worker --nope", 1, "--nope"}, {"worker --server http://x", 1, "--server"}, {"worker --ca-file x", 1, "--ca-file"}, {"worker --config absent.yaml", 1, "absent.yaml"},
	{"STACYVM_DATA_DIR=other worker", 1, "STACYVM_JOIN_TOKEN"}, {"worker --id a/b", 1, "worker.id"}, {"worker --id $EMPTY", 1, "--id"}, {"worker --control-plane $EMPTY", 1, "--control-plane"}, {"STACYVM_DATA_DIR=other worker --control-plane ftp://x", 1, "worker.control_plane_url"},
	{"STACYVM_DATA_DIR=other worker --control-plane http://x/y", 1, "worker.control_plane_url"}, {"STACYVM_DATA_DIR=other worker --control-plane http://x,", 1, "worker.control_plane_url"}, {"worker --listen $EMPTY", 1, "--listen"}, {"worker --heartbeat-interval 0s", 1, "--heartbeat-interval"},
	{"worker --heartbeat-interval soon", 1, "--heartbeat-interval"}, {"worker --bootstrap-token-ttl 16m", 1, "--bootstrap-token-ttl"}, {"worker --bootstrap-token-ttl 0s", 1, "--bootstrap-token-ttl"}, {"worker --preview-domain $EMPTY", 1, "--preview-domain"},
	{"worker --worker-token x --worker-token-file y", 1, "--worker-token-file"}, {"STACYVM_DATA_DIR=other worker --worker-token-file absent", 1, "absent"}, {"STACYVM_DATA_DIR=other worker --worker-token-file file", 1, "chmod"}, {"worker --worker-token $EMPTY", 1, "--worker-token"},
	{"STACYVM_DATA_DIR=other worker --worker-signing-key-file absent", 1, "absent"}, {"worker --worker-signing-key-file $EMPTY", 1, "--worker-signing-key-file"}, {"worker --bootstrap-admin-key x --bootstrap-admin-key-file y", 1, "--bootstrap-admin-key-file"}, {"worker --bootstrap-admin-key-file absent", 1, "absent"},
	{"worker --join-token-file absent", 1, "absent"}, {"worker --join-token-file file", 1, "chmod"}, {"STACYVM_DATA_DIR=other STACYVM_JOIN_TOKEN=x worker --control-plane http://127.0.0.1:1", 1, "https://"}, {"STACYVM_DATA_DIR=other STACYVM_JOIN_TOKEN=x worker --control-plane https://127.0.0.1:1", 1, "https://127.0.0.1:1"},
	{"worker --worker-token " + goodKey, 1, "STACYVM_DATA_DIR"}, {"STACYVM_DATA_DIR=file worker --worker-token " + goodKey, 1, "data_dir"}, {"STACYVM_DATA_DIR=other worker --worker-token " + goodKey + " --listen nonsense", 1, "worker.listen_addr"},
	{"STACYVM_DATA_DIR=other worker --once --worker-token " + goodKey + " --control-plane $OFF", 1, "$OFF"}, {"STACYVM_DATA_DIR=other STACYVM_PKI_DIR=absent worker", 1, "pki.dir"},
	{"worker list extra", 1, `"extra"`}, {"worker list --nope", 1, "--nope"}, {"worker list --output xml", 1, "--output"}, {"worker list --config x", 1, "--config"}, {"worker list --server $OFF", 1, "$OFF"}, {"STACYVM_API_KEY=wrong worker list", 1, "STACYVM_API_KEY"}, {"worker list --ca-file absent", 1, "absent"},
	{"worker drain", 1, "WORKER"}, {"worker drain a b", 1, `"b"`}, {"worker drain $EMPTY", 1, "WORKER"}, {"worker drain nobody", 1, `"nobody"`}, {"worker drain --nope a", 1, "--nope"}, {"worker drain a --server $OFF", 1, "$OFF"},
	{"worker resume", 1, "WORKER"}, {"worker resume nobody", 1, `"nobody"`}, {"worker resume a b", 1, `"b"`}, {"worker rm", 1, "WORKER"}, {"worker rm nobody", 1, `"nobody"`}, {"worker rm a b", 1, `"b"`}, {"worker rm --config x a", 1, "--config"},
	{"worker join-token extra", 1, `"extra"`}, {"worker join-token --nope", 1, "--nope"}, {"worker join-token --ttl 0s", 1, "--ttl"}, {"worker join-token --ttl soon", 1, "--ttl"}, {"worker join-token --ttl 200h", 1, "ttl"}, {"worker join-token --worker a/b", 1, "worker"},
	{"worker join-token list extra", 1, `"extra"`}, {"worker join-token list --nope", 1, "--nope"}, {"worker join-token list --output xml", 1, "--output"}, {"worker join-token list --config x", 1, "--config"}, {"worker join-token list --server $OFF", 1, "$OFF"}, {"STACYVM_API_KEY=wrong worker join-token list", 1, "STACYVM_API_KEY"},
	{"worker join-token rm", 1, "TOKEN"}, {"worker join-token rm a b", 1, `"b"`}, {"worker join-token rm $EMPTY", 1, "TOKEN"}, {"worker join-token rm nothing", 1, `"nothing"`}, {"worker join-token rm --nope a", 1, "--nope"}, {"worker join-token rm ../workers/local", 1, "token:"}, {"worker join-token rm a --server $OFF", 1, "$OFF"},
	{"worker join-token --output xml", 1, "--output"}, {"worker join-token --server $OFF", 1, "$OFF"}, {"STACYVM_API_KEY=wrong worker join-token", 1, "STACYVM_API_KEY"},
	{"worker token", 1, "WORKER"}, {"worker token $EMPTY", 1, "WORKER"}, {"worker token a b", 1, `"b"`}, {"worker token --nope a", 1, "--nope"}, {"worker token a", 1, "--signing-key-file"}, {"worker token a --api-key x", 1, "--api-key"},
	{"worker token a/b --signing-key " + goodKey, 1, "WORKER"}, {"worker token a --signing-key short", 1, "--signing-key-file"}, {"worker token a --signing-key x --signing-key-file file", 1, "--signing-key-file"},
	{"worker token a --signing-key-file absent", 1, "absent"}, {"worker token a --signing-key-file file", 1, "chmod"}, {"worker token a --signing-key-file dir", 1, "dir"}, {"worker token a --config absent.yaml", 1, "absent.yaml"},
	{"worker token a --ttl 16m --signing-key " + goodKey, 1, "--ttl"}, {"worker token a --ttl 0s --signing-key " + goodKey, 1, "--ttl"}, {"worker token a --ttl soon", 1, "--ttl"}, {"worker token a --audience all --signing-key " + goodKey, 1, "--audience"},
	{"worker token a --scope api:exec --signing-key " + goodKey, 1, "--scope"}, {"worker token a --token-id a/b --signing-key " + goodKey, 1, "--token-id"}, {"worker token a --not-before 5m --signing-key " + goodKey, 1, "--not-before"}, {"worker token a --format xml", 1, "--format"},
	{"worker token issue", 1, "WORKER"}, {"worker token issue a b", 1, `"b"`}, {"worker token issue a --signing-key short", 1, "--signing-key-file"}, {"STACYVM_AUTH_WORKER_SIGNING_KEY=short worker token issue a", 1, "--signing-key-file"},
	{"worker token inspect", 1, "TOKEN"}, {"worker token inspect nonsense", 1, "TOKEN"}, {"worker token inspect -", 1, "TOKEN"}, {"worker token inspect stacyvm-worker-v1.x.y", 1, "TOKEN"}, {"worker token inspect --nope x", 1, "--nope"}, {"worker token inspect x y", 1, `"y"`},
	{"worker token verify", 1, "TOKEN"}, {"worker token verify nonsense", 1, "TOKEN"}, {"worker token verify --nope x", 1, "--nope"}, {"worker token verify x y", 1, `"y"`}, {"worker token verify " + foreignToken, 1, "--signing-key-file"},
	{"worker token verify " + foreignToken + " --signing-key " + goodKey, 1, "known key"}, {"worker token verify " + foreignToken + " --verification-key short", 1, "--verification-key-file"}, {"worker token verify " + foreignToken + " --verification-key-file absent", 1, "absent"},
	{"worker token verify " + foreignToken + " --audience all --signing-key " + goodKey, 1, "--audience"}, {"worker token verify " + foreignToken + " --worker-id b --signing-key " + goodKey, 1, "known key"},
	{"worker token rotation-plan extra", 1, `"extra"`}, {"worker token rotation-plan --nope", 1, "--nope"}, {"worker token rotation-plan --ttl 16m", 1, "--ttl"}, {"worker token rotation-plan --format xml", 1, "--format"},
	{"worker token rotation-plan --new-key-ref $EMPTY", 1, "--new-key-ref"}, {"worker token rotation-plan --new-key-ref a --previous-key-ref a", 1, "--new-key-ref"},
	{"pki nope", 1, `"nope"`}, {"pki --nope", 1, "--nope"}, {"pki --server http://x", 1, "--server"}, {"pki init", 1, "DIR"}, {"pki init $EMPTY", 1, "DIR"}, {"pki init x y", 1, `"y"`}, {"pki init --nope x", 1, "--nope"}, {"pki init file", 1, "file"}, {"pki init x --server y", 1, "--server"}, {"pki init x --config y", 1, "--config"},
	{"pki issue", 1, "DIR"}, {"pki issue absent --worker a", 1, "absent"}, {"pki issue dir --worker a", 1, "ca.pem"}, {"pki issue dir", 1, "--worker"}, {"pki issue dir --worker a --server b", 1, "--worker"}, {"pki issue dir --worker ../a", 1, "--worker"}, {"pki issue dir --server http://x", 1, "--server"},
	{"pki issue dir --worker a --ttl 1s", 1, "--ttl"}, {"pki issue dir --worker a --ttl 0s", 1, "--ttl"}, {"pki issue dir --worker a --ttl soon", 1, "--ttl"}, {"pki issue --nope dir", 1, "--nope"}, {"pki issue dir x --worker a", 1, `"x"`}, {"pki issue dir --worker a --api-key x", 1, "--api-key"},
	{"pki rotate", 1, "DIR"}, {"pki rotate dir x", 1, `"x"`}, {"pki rotate absent", 1, "absent"}, {"pki rotate dir", 1, "ca.pem"}, {"pki rotate dir --finish", 1, "ca.pem"}, {"pki rotate --nope dir", 1, "--nope"}, {"pki rotate dir --server x", 1, "--server"},

	{"doctor extra", 1, `"extra"`}, {"doctor --nope", 1, "--nope"}, {"doctor --output xml", 1, "--output"}, {"doctor --server http://x", 1, "--server"},
	{"doctor --config broken.yaml", 1, "prot"}, {"STACYVM_DATA_DIR=file doctor", 1, "data_dir"},
}

// TestMisuse: wrong use of every command. A command without a row fails it.
func TestMisuse(t *testing.T) {
	r := newRig(t, "STACYVM_AUTH_API_KEY="+goodKey).serve()
	r.env = append(r.env, "STACYVM_API_KEY="+goodKey)
	r.write("file", "no archive", 0o644)
	r.write("dir/file", "", 0o644)
	r.write("broken.yaml", "server: {prot: 1}", 0o644)
	sandbox := r.sandbox()
	process, err := r.client.Start(t.Context(), sandbox, client.ExecRequest{Command: "sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"SB": sandbox, "PROC": process.ID, "NONE": "sb-000000000000000000000000", "OFF": "http://127.0.0.1:1"}
	value := func(name string) string { return values[name] }
	uncovered := commands(r)
	for _, row := range misuses {
		cmd := r.command()
		for word := range strings.FieldsSeq(row.line) {
			if len(cmd.Args) == 1 && strings.HasPrefix(word, "STACYVM_") {
				cmd.Env = append(cmd.Env, word)
			} else {
				cmd.Args = append(cmd.Args, os.Expand(word, value))
			}
		}
		uncovered = slices.DeleteFunc(uncovered, func(command []string) bool {
			return len(cmd.Args) > len(command) && slices.Equal(cmd.Args[1:len(command)+1], command)
		})
		got := r.do(cmd)
		complaint := got.stderr
		if cmd.Args[len(cmd.Args)-1] == "doctor" || strings.HasPrefix(row.line, "doctor --config") {
			complaint += got.stdout // its findings are its output
			got.stdout = ""
		}
		if says := os.Expand(row.says, value); got.exit != row.exit || got.stdout != "" || !strings.Contains(complaint, says) {
			t.Errorf("%s: exit code %d, want %d and %s\n%s%s", row.line, got.exit, row.exit, says, got.stdout, complaint)
		}
	}
	for _, command := range uncovered {
		t.Errorf("no row for `stacyvm %s`", strings.Join(command, " "))
	}
}

var (
	helpTitle = regexp.MustCompile(`(?m)^(\S.*):$`)
	helpLine  = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)
)

// commands walks through the help of every command.
func commands(r *rig, path ...string) (found [][]string) {
	r.t.Helper()
	help := r.must(r.command(append(path, "--help")...))
	titles := helpTitle.FindAllStringSubmatchIndex(help, -1)
	for i, title := range titles {
		section := help[title[1]:]
		if i+1 < len(titles) {
			section = help[title[1]:titles[i+1][0]]
		}
		switch help[title[2]:title[3]] {
		case "Usage", "Examples", "Flags", "Global Flags", "Aliases":
			continue
		}
		for _, line := range helpLine.FindAllStringSubmatch(section, -1) {
			command := append(slices.Clone(path), line[1])
			found = append(found, command)
			found = append(found, commands(r, command...)...)
		}
	}
	if len(path) == 0 && len(found) < 15 {
		r.t.Fatalf("the help lists only %q", found)
	}
	return found
}
