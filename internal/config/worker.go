package config

import "time"

// Worker is this machine.
type Worker struct {
	// ID names this machine in the store; it must stay the same over restarts. Empty: "local" with
	// SQLite, which one server uses; with PostgreSQL a name that is made once and kept in
	// data_dir.
	ID string `yaml:"id"`
	// ControlPlaneURL is where a worker process reports to.
	ControlPlaneURL string `yaml:"control_plane_url"`
	// ListenAddr is where a worker process answers control planes; empty: nowhere.
	ListenAddr string `yaml:"listen_addr"`
	// RPCURL is the address that control planes call, such as https://10.0.0.7:7424; empty: made
	// of ListenAddr.
	RPCURL            string        `yaml:"rpc_url"`
	PreviewDomain     string        `yaml:"preview_domain"` // empty: server.preview_domain
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval"`
	ShutdownTimeout   time.Duration `yaml:"shutdown_timeout"`
	// MaxSandboxes, MemoryMB (MiB) and VCPUs bound what is placed here. 0: any number; for a
	// worker process the machine's memory and processors, for the worker in a server any.
	MaxSandboxes int `yaml:"max_sandboxes"`
	MemoryMB     int `yaml:"memory_mb"`
	VCPUs        int `yaml:"vcpus"`
	// ParallelCreates is how many sandboxes are started here at a time; the others wait in line.
	// 0: twice as many as there are processors.
	ParallelCreates int `yaml:"parallel_creates"`
	// Labels are what sandboxes may ask for in a worker.
	Labels map[string]string `yaml:"labels"`
	RPCTLS RPCTLS            `yaml:"rpc_tls"`
}

// RPCTLS encrypts what control planes and workers tell each other.
type RPCTLS struct {
	Enabled            bool `yaml:"enabled"`
	InsecureSkipVerify bool `yaml:"insecure_skip_verify"`
	// Of the worker's listener. With a ClientCAFile, control planes must show a certificate.
	ServerCertFile string `yaml:"server_cert_file"`
	ServerKeyFile  string `yaml:"server_key_file"`
	ClientCAFile   string `yaml:"client_ca_file"`
	// Of the control plane that calls it.
	CAFile         string `yaml:"ca_file"`
	ClientCertFile string `yaml:"client_cert_file"`
	ClientKeyFile  string `yaml:"client_key_file"`
	ServerName     string `yaml:"server_name"`
}
