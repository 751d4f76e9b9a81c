/*
 * The configuration as every part reads it: what the board file says, checked and with defaults
 * filled in. fw/config.c makes it from YAML; each limit stands here once, and admission, the
 * scheduler and HELLO_ACK all read that one.
 */
#ifndef PLX_FW_BASE_CONFIG_H
#define PLX_FW_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define PLX_CFG_NAME_BYTES 32
#define PLX_CFG_PATH_BYTES 256
#define PLX_CFG_MAX_PORTS  4
#define PLX_CFG_MAX_STAGES 64
#define PLX_CFG_MAX_DEVS   8

/* Where packets come from. */
enum plx_port_kind {
	PLX_PORT_AUTO,      /* AF_XDP, else AF_PACKET and saying so */
	PLX_PORT_AF_XDP,    /* iface */
	PLX_PORT_AF_PACKET, /* iface, n_queues */
	PLX_PORT_PCI,       /* a NIC bound to vfio-pci; pci_addr */
	PLX_PORT_VDEV,      /* any DPDK virtual device by its argument string: memif, ring, null */
};

struct plx_cfg_port {
	char name[PLX_CFG_NAME_BYTES];
	enum plx_port_kind kind;
	char iface[PLX_CFG_NAME_BYTES];
	char pci_addr[PLX_CFG_NAME_BYTES];
	char vdev[PLX_CFG_PATH_BYTES];
	uint32_t n_queues; /* rx and tx pairs, 1.. */
	uint8_t ipv4[4];   /* network order; all zero: none */
	uint8_t
	    ipv6[16]; /* network order; all zero: only the link-local address made from the MAC */
	uint16_t udp_port; /* 7709 */
	uint32_t line;     /* of the board file, for messages; 0: not from a file */
};

enum plx_stage_kind {
	PLX_STAGE_IO,     /* port, queue */
	PLX_STAGE_HS,     /* handshakes' slow part */
	PLX_STAGE_TOK,    /* text to ids and back */
	PLX_STAGE_BATCH,  /* admission, KV, scheduling */
	PLX_STAGE_ACCEL,  /* submits to and polls a device */
	PLX_STAGE_WORKER, /* lends its lcore to a CPU device */
};

/* One stage on one lcore. Several stages may name the same lcore. */
struct plx_cfg_stage {
	enum plx_stage_kind kind;
	uint32_t lcore;      /* CPU number */
	uint32_t port_idx;   /* IO */
	uint32_t queue;      /* IO */
	uint32_t device_idx; /* ACCEL, WORKER */
};

/* What a device runs, as fleet.h's enum plx_fleet_role. */
enum plx_cfg_role {
	PLX_CFG_MIXED,   /* prompts and answers */
	PLX_CFG_PREFILL, /* prompts; then their requests go to another device */
	PLX_CFG_DECODE,  /* answers to prompts that another device ran */
	PLX_CFG_DRAFT,   /* drafts for the one other device, by a model of its own */
};

struct plx_cfg_dev {
	char name[PLX_CFG_NAME_BYTES];
	char kind[16]; /* "cpu" */
	char isa[16];  /* "auto", "scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "amx" */
	uint32_t index;
	enum plx_cfg_role role;
	char model[PLX_CFG_PATH_BYTES];       /* DRAFT: its GGUF file; "": the board's model */
	char skip_layers[PLX_CFG_NAME_BYTES]; /* DRAFT: layers left out, as "8-15,20" */
	uint32_t n_kv_blocks;                 /* DRAFT: of its own; 0: as many as the limits say */
	uint32_t line;                        /* of the board file; 0: not from a file */
};

/* How KV is kept, as accel.h's enum plx_kv_type. */
enum plx_cfg_kv {
	PLX_CFG_KV_F16,
	PLX_CFG_KV_Q8,
	PLX_CFG_KV_Q4,
};

/* Every bound of the appliance. Counts unless a unit is in the name. */
struct plx_cfg_limits {
	uint32_t n_sessions;         /* open sessions of one io stage */
	uint32_t n_half_open;        /* handshakes not yet confirmed, one io stage */
	uint32_t n_session_requests; /* requests in flight of one session */
	uint32_t n_requests;         /* requests in flight, whole appliance */
	uint32_t request_bytes;      /* one REQ message, all fragments */
	uint32_t reasm_bytes;        /* reassembly memory of one io stage */
	uint32_t prompt_tokens;      /* ids of one prompt */
	uint32_t context_tokens;     /* positions of one sequence; 0: as many as the model has */
	uint32_t max_new_tokens;     /* ids of one answer */
	uint32_t n_samples;          /* answers of one request */
	uint32_t n_stop;             /* stop strings of one request */
	uint32_t stop_bytes;         /* one stop string */
	uint32_t n_logprobs;         /* alternatives a token, at most PLX_MAX_TOP */
	uint32_t n_slots;            /* running sequences */
	uint32_t n_kv_blocks;        /* KV pool */
	uint32_t n_host_blocks;      /* host memory behind the KV pool; 0: none */
	uint32_t block_tokens;       /* tokens a KV block */
	uint32_t step_tokens;        /* token budget of a step */
	uint32_t step_seqs;          /* sequences in a step */
	uint32_t steps_in_flight;    /* at least 2 */
	uint32_t unacked_tokens;     /* towards a client: then its sequence pauses */
	uint32_t ring_entries;       /* each ring; a power of two */
	uint32_t n_mbufs;            /* packet buffers of one port */
	uint32_t draft_tokens;   /* ids of a sequence that drafts are looked up in; 0: no drafts */
	uint32_t kept_tokens;    /* ids of finished requests, kept to be continued; 0: none */
	uint32_t score_layers;   /* that score a prompt before it is pruned; 0: all */
	uint32_t best_of_tokens; /* ids held back until the best samples are known; 0: none */
	uint32_t kept_requests;  /* finished requests of one session that are kept */
	uint32_t trace_events;   /* of each stage's ring of events; 0: none */
	uint32_t expert_mem_mib; /* CPU: experts' weights in memory; 0: all */
	uint32_t sparse_mass;    /* sparse attention, as accel.h's limits say; 0 and 0: dense */
	uint32_t sparse_chunks;
	uint32_t sparse_from;
	uint32_t sparse_least;   /* mass that a request may ask for; 0: none but all */
	uint32_t draft_branches; /* of trees of drafts, as accel.h's limits say; 0: chains */
	uint32_t draft_ahead;    /* places of lookahead's trajectory; 0: it drafts nothing */
};

struct plx_cfg_timers {
	uint32_t slice_us;      /* longest turn of a stage on its lcore */
	uint32_t coalesce_us;   /* longest wait of a later token for company; 0 allowed */
	uint32_t rtt_floor_us;  /* least retransmit timeout */
	uint32_t ack_delay_us;  /* longest delay of an acknowledgement */
	uint32_t keepalive_ms;  /* a client silent for three of these is gone */
	uint32_t result_ttl_ms; /* how long an unacknowledged answer is kept */
	uint32_t reasm_ttl_ms;  /* how long a partial message is kept */
	uint32_t pause_ms;      /* how long a sequence waits for a client that does not read */
	uint32_t drain_ms;      /* how long SIGTERM waits for requests in flight */
	uint32_t ttft_slo_us;   /* first token's objective where a request names none; 0: none */
	uint32_t itl_slo_us;    /* and from one token to the next; 0: none */
	uint32_t batch_wait_us; /* an idle device waits so long for a first step to fill */
	uint32_t stall_ms;      /* one of several devices that makes no progress so long is out */
	uint32_t step_deadline_ms; /* a device step without completion for this long is a fault */
};

struct plx_config {
	char board[PLX_CFG_NAME_BYTES];
	char board_path[PLX_CFG_PATH_BYTES];
	char model_path[PLX_CFG_PATH_BYTES];
	char keys_path[PLX_CFG_PATH_BYTES];     /* "" only with insecure */
	char chat_template[PLX_CFG_NAME_BYTES]; /* "" = the model's own */
	char file_prefix[PLX_CFG_NAME_BYTES];   /* DPDK's; one a running polluxd */
	bool insecure;     /* run without keys: any key id with an all-zero key */
	bool idle_backoff; /* yield and short sleeps when nothing comes; off on a rack board */
	bool huge_pages;   /* refuse to start without 2 MiB pages when true */
	char telemetry[PLX_CFG_PATH_BYTES]; /* the shared file; "": its usual place, "off": none */
	enum plx_cfg_kv kv_type;
	bool weights_cache; /* keep repacked weights in a file beside the model */
	uint32_t mem_mib;   /* DPDK memory */
	uint32_t mem_line;  /* board file's line of what decides on DPDK's memory; 0: none */
	uint32_t kv_line;   /* and on KV memory */
	uint32_t n_ports;
	uint32_t n_stages;
	uint32_t n_devs;
	struct plx_cfg_port port[PLX_CFG_MAX_PORTS];
	struct plx_cfg_stage stage[PLX_CFG_MAX_STAGES];
	struct plx_cfg_dev dev[PLX_CFG_MAX_DEVS];
	struct plx_cfg_limits lim;
	struct plx_cfg_timers tmr;
};

#endif
