package config

import (
	"os"
	"path/filepath"
	"time"
)

// Default gives every key's default.
func Default() Config {
	return Config{
		DataDir: defaultDataDir(),
		Server: Server{
			Host:                "127.0.0.1",
			Port:                7423,
			ShutdownTimeout:     30 * time.Second,
			RequestMemoryMB:     64,
			MaxStreams:          2048,
			MaxStreamsPerCaller: 1024,
			Worker:              true,
		},
		Worker: Worker{
			ControlPlaneURL:   "http://localhost:7423",
			HeartbeatInterval: 30 * time.Second, ShutdownTimeout: 10 * time.Second,
		},
		Providers: defaultProviders(),
		Defaults: Defaults{
			Image: "host", MemoryMB: 1024, VCPUs: 1, DiskSizeMB: 1024,
			TTL: 30 * time.Minute, MaxTTL: 24 * time.Hour, MaxExecTimeout: 10 * time.Minute,
			SpawnOverflow: overflowReject, SpawnQueueTimeout: 30 * time.Second, MaxSpawnQueue: 100,
		},
		Auth: Auth{AdminFallbackEnabled: true, OIDCGroupsClaim: "groups", OIDCTenantClaim: "tenant_id"},
		RateLimit: RateLimit{
			RequestsPerMinute: 120,
			Burst:             60,
			KeyBy:             "owner",
			BucketTTL:         15 * time.Minute,
			CleanupInterval:   time.Minute,
		},
		Database: Database{Driver: "sqlite"},
		Disk:     Disk{MinFreeMB: 256, ReserveMB: 64},
		Logging:  Logging{Level: "info", Format: "json"},
		Pool: Pool{
			MaxVMs:        10,
			MaxUsersPerVM: 5,
			Image:         "alpine:latest",
			MemoryMB:      2048,
			VCPUs:         2,
			Overflow:      overflowReject,
		},
	}
}

// What happens to what finds no room.
const (
	overflowReject = "reject"
	// OverflowQueue lets it wait in line.
	OverflowQueue = "queue"
)

func defaultProviders() Providers {
	return Providers{
		Default: "gvisor",
		GVisor:  Provider{Enabled: true},
		Docker: Docker{
			Runtime: "runc", DefaultImage: "alpine:latest", NetworkMode: "bridge", SeccompProfile: "default",
			Memory: "512m", CPUs: "1", PidsLimit: 256, DroppedCaps: []string{"ALL"},
			PoolSecurity: PoolSecurity{WorkspacePermissions: true},
		},
		Firecracker: Firecracker{
			FirecrackerPath: "/usr/local/bin/firecracker", KernelPath: "/var/lib/stacyvm/vmlinux.bin",
			AgentPath: "./bin/stacyvm-agent", DataDir: "/var/lib/stacyvm",
		},
		E2B:    E2B{BaseURL: "https://api.e2b.dev"},
		Custom: Custom{Name: "custom", Timeout: time.Minute},
		PRoot: PRoot{
			RootFSPath: "/var/lib/stacyvm/rootfs", Binary: "proot", WorkspaceBase: "/var/lib/stacyvm/workspaces",
			DefaultTimeout: time.Minute, MaxSandboxes: 10, MaxMemoryMB: 512, MaxDiskMB: 1024,
			Languages: []string{"python3", "node", "bash"},
		},
	}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/stacyvm"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "stacyvm-data" // no home: below the working directory
	}
	return filepath.Join(home, ".local", "share", "stacyvm")
}
