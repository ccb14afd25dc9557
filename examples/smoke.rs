#![allow(missing_docs, unsafe_code, clippy::all)]
use aegis_blocks::*;
use std::time::Instant;
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let threads: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let secs: f64 = std::env::args().nth(3).unwrap().parse().unwrap();
    let direct = std::env::args().nth(4).is_some_and(|s| s == "direct");
    let store = LocalBackend::options().write_mode(if direct {WriteMode::Direct} else {WriteMode::Buffered}).zero_ahead_len(2<<30).open(&dir).unwrap();
    println!("{:?}", store.recovery());
    store.prepare_space(if secs > 0.0 {1<<30} else {0}).unwrap();
    let before = store.stats();
    let ru = || unsafe { let mut r: libc::rusage = std::mem::zeroed(); libc::getrusage(0, &mut r); (r.ru_utime.tv_sec + r.ru_stime.tv_sec) as f64 * 1e6 + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) as f64 };
    let r0 = ru();
    let t = Instant::now();
    let n: u64 = std::thread::scope(|s| {
        let hs: Vec<_> = (0..threads).map(|i| { let store = &store; s.spawn(move || {
            let data = bytes::Bytes::from(vec![i as u8; 4096]);
            let mut n = 0u64;
            while t.elapsed().as_secs_f64() < secs { store.write_block(Block::new(BlockId(0), BlockType::TableData, data.clone())).unwrap(); n += 1; }
            n }) }).collect();
        hs.into_iter().map(|h| h.join().unwrap()).sum()
    });
    let e = t.elapsed().as_secs_f64();
    let cpu = ru() - r0;
    let st = store.stats();
    println!("threads {threads} direct {direct}: {:.0}/s fsync/commit {:.4} group {:.1} cpu/commit {:.1}us WA {:.3} zeroed {}", n as f64 / e, (st.log_syncs-before.log_syncs) as f64 / n as f64, n as f64/(st.groups-before.groups) as f64, cpu / n as f64, (st.log_bytes-before.log_bytes) as f64/(n as f64*4096.0), (st.zeroed_bytes-before.zeroed_bytes)>>20);
    println!("blocks {} bytes {} index {} ", st.total_blocks, st.total_bytes, st.index_bytes);
    store.close().unwrap();
    let v = LocalBackend::verify(&dir).unwrap();
    println!("{v:?}");
}
