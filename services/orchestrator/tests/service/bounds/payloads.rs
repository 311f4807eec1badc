//! The bounds of what payloads take, wherever they wait.

use super::*;

#[test]
fn payloads_take_places_of_the_inbox_and_one_larger_than_all_goes_through() {
    let mut bench = Bench::new(|config| config.driver.inbox_inputs_max = 8);
    let calls = [200, 20].map(|kib| bench.execute(large(kib << 10)));
    assert!(calls.iter().all(|(_, refused)| refused.is_none()));
    assert_shed(&bench.execute(large(0)).1.unwrap());
    bench.turn();
    assert!(bench.execute(large(900 << 10)).1.is_none());
    assert_shed(&bench.execute(large(0)).1.unwrap());
    bench.turn();
    assert!(bench.execute(large(0)).1.is_none());
}

#[test]
fn payloads_that_live_shed_the_next_start_until_some_have_left_memory() {
    let mut bench = Bench::new(|config| config.engine.max_live_payload_bytes.0 = 100 << 20);
    let mut host = bench.connect("h", 1_000);
    let begin = |bench: &mut Bench| {
        let (mut call, _) = bench.execute(large(1_000_000));
        bench.turn();
        poll(&mut call).unwrap()
    };
    for _ in 0..104 {
        begin(&mut bench).unwrap();
    }
    assert_shed(&begin(&mut bench).unwrap_err());
    let commands = host.commands();
    let ids: Vec<_> = commands
        .iter()
        .map(|command| command.command_id.clone())
        .collect();
    assert_eq!(ids.len(), 104);
    // The live ones are written, so that nothing stands in the way of the next.
    bench.stepped.write_rows();
    bench.turn();
    // Their rows are written before it is time, since they are large.
    host.complete(&ids);
    bench.turn();
    bench.stepped.write_rows();
    bench.turn();
    assert_eq!(bench.stepped.state().payload_bytes(), 0);
    begin(&mut bench).unwrap();
}
